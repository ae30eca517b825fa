// libssh as a client of the tests: see tests/program/clients.rs for what it is asked to do.

#include <errno.h>
#include <fcntl.h>
#include <libssh/libssh.h>
#include <libssh/sftp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ssh_session session;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, ssh_get_error(session));
    exit(1);
}

static void check(int holds, const char *what) {
    if (!holds) fail(what);
}

static void check_host_key(void) {
    ssh_key key;
    char *text = NULL, known[4096];
    snprintf(known, sizeof known, "%s", getenv("HOST_KEY"));
    char *type = strtok(known, " "), *base64 = strtok(NULL, " ");
    check(ssh_get_server_publickey(session, &key) == SSH_OK, "host key");
    check(ssh_pki_export_pubkey_base64(key, &text) == SSH_OK, "host key");
    check(strcmp(ssh_key_type_to_char(ssh_key_type(key)), type) == 0 && strcmp(text, base64) == 0, "another host key");
}

static int interactive(const char *password) {
    int status;
    while ((status = ssh_userauth_kbdint(session, NULL, NULL)) == SSH_AUTH_INFO) {
        int prompts = ssh_userauth_kbdint_getnprompts(session);
        for (int i = 0; i < prompts; i++) ssh_userauth_kbdint_setanswer(session, i, password);
    }
    return status;
}

static void log_in(const char *method) {
    int status, port = atoi(getenv("PORT"));
    session = ssh_new();
    ssh_options_set(session, SSH_OPTIONS_HOST, "127.0.0.1");
    ssh_options_set(session, SSH_OPTIONS_USER, "alice");
    ssh_options_set(session, SSH_OPTIONS_PORT, &port);
    check(ssh_connect(session) == SSH_OK, "connect");
    check_host_key();
    if (strcmp(method, "key") == 0) {
        ssh_key key;
        check(ssh_pki_import_privkey_file(getenv("KEY"), NULL, NULL, NULL, &key) == SSH_OK, "key");
        status = ssh_userauth_publickey(session, NULL, key);
    } else if (strcmp(method, "password") == 0) {
        status = ssh_userauth_password(session, NULL, getenv("PASSWORD"));
    } else {
        status = interactive(getenv("PASSWORD"));
    }
    check(status == SSH_AUTH_SUCCESS, "authentication failed");
}

static void put(int to, const char *data, int count) {
    while (count > 0) {
        ssize_t written = write(to, data, count);
        if (written < 0) exit(1);
        data += written;
        count -= written;
    }
}

// Connects our standard input and outputs with the channel's, to its end.
static void relay(ssh_channel channel) {
    char buffer[32768];
    int reading = 1;
    while (!ssh_channel_is_closed(channel) && !ssh_channel_is_eof(channel)) {
        struct pollfd input = {.fd = reading ? 0 : -1, .events = POLLIN};
        if (poll(&input, 1, 0) > 0) {
            ssize_t count = read(0, buffer, sizeof buffer);
            reading = count > 0;
            if (reading) ssh_channel_write(channel, buffer, count);
            else ssh_channel_send_eof(channel);
        }
        for (int is_stderr = 0; is_stderr < 2; is_stderr++) {
            int count = ssh_channel_read_timeout(channel, buffer, sizeof buffer, is_stderr, 10);
            if (count > 0) put(1 + is_stderr, buffer, count);
        }
    }
    for (int is_stderr = 0; is_stderr < 2; is_stderr++) {
        int count;
        while ((count = ssh_channel_read(channel, buffer, sizeof buffer, is_stderr)) > 0) put(1 + is_stderr, buffer, count);
    }
}

static int ended(ssh_channel channel) {
    uint32_t status = 1;
    char *signal = NULL;
    ssh_channel_close(channel);
    ssh_channel_get_exit_state(channel, &status, &signal, NULL);
    if (signal == NULL) return (int)status;
    fprintf(stderr, "signal %s\n", signal);
    return 255;
}

static int execute(const char *command, int terminal) {
    ssh_channel channel = ssh_channel_new(session);
    check(ssh_channel_open_session(channel) == SSH_OK, "session");
    if (terminal) check(ssh_channel_request_pty_size(channel, "vt220", 100, 40) == SSH_OK, "terminal");
    check(ssh_channel_request_exec(channel, command) == SSH_OK, "exec");
    relay(channel);
    return ended(channel);
}

static int tunnel(const char *host, int port) {
    ssh_channel channel = ssh_channel_new(session);
    check(ssh_channel_open_forward(channel, host, port, "127.0.0.1", 0) == SSH_OK, "forward");
    relay(channel);
    return 0;
}

static int listening(void) {
    int port = 0, count, size = 0;
    char command[100], question[100];
    check(ssh_channel_listen_forward(session, "127.0.0.1", 0, &port) == SSH_OK, "listen");
    ssh_channel running = ssh_channel_new(session);
    check(ssh_channel_open_session(running) == SSH_OK, "session");
    snprintf(command, sizeof command, "echo hello | nc 127.0.0.1 %d", port);
    check(ssh_channel_request_exec(running, command) == SSH_OK, "exec");
    ssh_channel asked = ssh_channel_open_forward_port(session, 60000, NULL, NULL, NULL);
    check(asked != NULL, "nobody connected");
    while ((count = ssh_channel_read(asked, question + size, sizeof question - size, 0)) > 0) size += count;
    ssh_channel_write(asked, "you said ", 9);
    ssh_channel_write(asked, question, size);
    ssh_channel_send_eof(asked);
    ssh_channel_close(asked);
    relay(running);
    return ended(running);
}

static int files(const char *near, const char *far, const char *back) {
    char directory[200], moved[250], link[250], buffer[32768];
    struct stat status;
    ssize_t count;
    snprintf(directory, sizeof directory, "%s.d", far);
    snprintf(moved, sizeof moved, "%s/moved", directory);
    snprintf(link, sizeof link, "%s/link", directory);
    sftp_session sftp = sftp_new(session);
    check(sftp != NULL && sftp_init(sftp) == 0, "sftp");

    int file = open(near, O_RDONLY);
    sftp_file remote = sftp_open(sftp, far, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    check(remote != NULL, far);
    while ((count = read(file, buffer, sizeof buffer)) > 0) check(sftp_write(remote, buffer, count) == count, "write");
    sftp_close(remote);
    fstat(file, &status);
    close(file);
    sftp_attributes attributes = sftp_stat(sftp, far);
    check(attributes != NULL && attributes->size == (uint64_t)status.st_size, "size");

    check(sftp_mkdir(sftp, directory, 0700) == 0, "mkdir");
    check(sftp_rename(sftp, far, moved) == 0, "rename");
    check(sftp_symlink(sftp, "moved", link) == 0, "symlink");
    int names = 0;
    sftp_dir listing = sftp_opendir(sftp, directory);
    while ((attributes = sftp_readdir(sftp, listing)) != NULL) names += attributes->name[0] != '.';
    sftp_closedir(listing);
    check(names == 2, "two names");
    char *target = sftp_readlink(sftp, link);
    check(target != NULL && strcmp(target, "moved") == 0, "readlink");
    check(sftp_chmod(sftp, moved, 0640) == 0, "chmod");

    remote = sftp_open(sftp, link, O_RDWR, 0);
    check(remote != NULL && sftp_seek64(remote, 3) == 0 && sftp_write(remote, "berth", 5) == 5, "write");
    check(sftp_seek64(remote, 0) == 0 && sftp_read(remote, buffer, 8) == 8 && memcmp(buffer + 3, "berth", 5) == 0, "read");
    sftp_close(remote);
    file = open(back, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    remote = sftp_open(sftp, moved, O_RDONLY, 0);
    check(file >= 0 && remote != NULL, "get");
    while ((count = sftp_read(remote, buffer, sizeof buffer)) > 0) put(file, buffer, count);
    check(count == 0, "get");
    sftp_close(remote);
    close(file);
    snprintf(moved, sizeof moved, "%s/nothing", directory);
    check(sftp_unlink(sftp, moved) != 0 && sftp_get_error(sftp) == SSH_FX_NO_SUCH_FILE, "what is not there was removed");
    sftp_free(sftp);
    return 0;
}

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "--version") == 0) {
        puts(ssh_version(0));
        return 0;
    }
    log_in(words[1]);
    const char *action = words[2];
    int status = 1;
    if (strcmp(action, "exec") == 0) status = execute(words[3], 0);
    else if (strcmp(action, "terminal") == 0) status = execute(words[3], 1);
    else if (strcmp(action, "connect") == 0) status = tunnel(words[3], atoi(words[4]));
    else if (strcmp(action, "listen") == 0) status = listening();
    else if (strcmp(action, "files") == 0) status = files(words[3], words[4], words[5]);
    ssh_disconnect(session);
    return status;
}
