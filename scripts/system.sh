# Sourced: Debian systems made from nothing, and processes in them that have their own network, mounts, processes and
# control groups. What is started and mounted in one ends with it.

PATH=$PATH:/usr/sbin:/sbin

mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' "Label: $1" | head -n 1
}

# make_system SUITE DIRECTORY PACKAGE,...: the smallest installation, and these packages.
make_system() {
    local suite=$1 root=$2 packages=$3 debian security proxy sources
    debian=$(mirror Debian)
    security=$(mirror Debian-Security)
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    sources=("deb $debian $suite main")
    # Security updates of sid are in sid.
    [ "$suite" = sid ] || sources+=("deb $debian $suite-updates main" "deb $security $suite-security main")
    # A mirror may be a copy of some weeks ago; that it is Debian's is checked all the same.
    mmdebstrap --quiet --variant=minbase --include="$packages" \
        --aptopt='Acquire::Check-Valid-Until "false"' ${proxy:+--aptopt="Acquire::http::Proxy \"$proxy\""} \
        "$suite" "$root" "${sources[@]}" >&2
    # The authorities that this machine trusts beside the world's.
    [ ! -d /usr/local/share/ca-certificates ] || cp -r /usr/local/share/ca-certificates "$root/usr/local/share/"
    # slirp4netns' own.
    rm -f "$root/etc/resolv.conf"
    echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
    printf '127.0.0.1 localhost\n127.0.0.1 %s\n' "$suite" >"$root/etc/hosts"
}

# One below this process' own for each hierarchy: what dockerd makes is below these, and goes with them.
control_groups() {
    sed -n 's/^[^ ]* \([^ ]*\) cgroup2\{0,1\} .*/\1\/berth-system-'$$/p /proc/mounts
}

enter_control_groups() {
    local group file
    for group in $(control_groups); do
        mkdir "$group"
        # Those of v1's cpuset begin without any.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$group/$file" ] || [ -n "$(cat "$group/$file")" ] || cat "${group%/*}/$file" >"$group/$file"
        done
        echo "$1" >"$group/cgroup.procs"
    done
}

remove_control_groups() {
    local group
    for group in $(control_groups); do
        # Processes that were killed are in them for a moment more.
        for _ in $(seq 50); do
            [ -d "$group" ] || break
            find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
            [ ! -d "$group" ] || sleep 0.1
        done
    done
}

inside= network=
# in_namespaces SECONDS COMMAND...: runs it as the first process of its own namespaces, for that long at most. It may
# mount what it likes, and calls prepare_system and enter_system.
in_namespaces() {
    local seconds=$1 status=0 pid
    shift
    (
        enter_control_groups "$BASHPID"
        exec timeout --signal=KILL "$seconds" unshare --mount --propagation private --mount-proc --net --ipc --uts --cgroup \
            --pid --fork --kill-child "$@"
    ) &
    inside=$!
    until pid=$(pgrep -P "$inside" -x unshare) && [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do
        kill -0 "$inside" 2>/dev/null || break
        sleep 0.1
    done
    if [ -n "$pid" ]; then
        slirp4netns --configure --mtu=65520 --disable-host-loopback "$pid" tap0 >/dev/null 2>&1 &
        network=$!
    fi
    wait "$inside" || status=$?
    inside=
    end_namespaces
    return $status
}

# Ends what in_namespaces has started, whatever has happened.
end_namespaces() {
    if [ -n "$inside" ]; then
        pkill -KILL -P "$inside" || true
        wait "$inside" || true
    fi
    [ -z "$network" ] || { kill "$network" && wait "$network"; } 2>/dev/null || true
    inside= network=
    remove_control_groups
}

# prepare_system NAME DIRECTORY: for the first process of its namespaces, once there is a network.
prepare_system() {
    local root=$2
    hostname "$1"
    until ip link show tap0 >/dev/null 2>&1; do sleep 0.1; done
    ip link set lo up
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
}

# The kinds of control groups that this machine has, as systemd calls them.
control_group_kinds() {
    if [ "$(wc -l </proc/self/cgroup)" = 1 ]; then echo v2; else echo hybrid v1 v2; fi
}

# mount_control_groups DIRECTORY KIND: in a system.
mount_control_groups() {
    local path=$1/sys/fs/cgroup kind=$2 hierarchy name
    umount --recursive "$path" 2>/dev/null || true
    if [ "$kind" = v2 ]; then
        mount -t cgroup2 cgroup2 "$path"
        return
    fi
    mount -t tmpfs -o mode=755 tmpfs "$path"
    for hierarchy in $(cut -d : -f 2 /proc/self/cgroup); do
        name=${hierarchy#name=}
        mkdir "$path/$name"
        [ "$name" = "$hierarchy" ] || hierarchy=none,$hierarchy
        mount -t cgroup -o "$hierarchy" cgroup "$path/$name"
    done
    [ "$kind" = v1 ] || { mkdir "$path/unified" && mount -t cgroup2 cgroup2 "$path/unified"; }
}

# enter_system DIRECTORY: the system is all that there is from now on. A mere chroot would not do: dockerd, when it copies
# into containers that run, looks for the root of its mounts.
enter_system() {
    cd "$1"
    pivot_root . mnt
    cd /
    umount --lazy /mnt
    hash -r
}

# in_system COMMAND: by a shell without any of this machine's settings.
in_system() {
    env --ignore-environment --default-signal=INT HOME=/root TERM=dumb LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /bin/bash -c "$1"
}
