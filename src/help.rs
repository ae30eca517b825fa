//! What the command line says of itself.

/// All commands.
pub const ALL: &str = "\
berth: an SSH server that gives every user a container

Usage:
  berth serve --config FILE            serve, until SIGTERM or SIGINT; SIGHUP reads the file again
  berth check --config FILE            print every error in a configuration
  berth check --explain KEY            say what a key of the configuration is for, as ssh.listen; or find keys
  berth check --schema                 print a JSON Schema of the configuration, for editors
  berth keygen [-t TYPE] -f FILE       make a host key: ed25519 (the default), ecdsa or rsa
  berth keygen -t password             make a hash of a password, for auth.users.NAME.password
  berth keygen -t totp [-C NAME]       make a secret of one-time codes, for auth.users.NAME.totp
  berth agent ...                      what runs in a container; berth starts it itself
  berth help [COMMAND]                 say more of a command
  berth --version
";

const SERVE: &str = "\
Usage: berth serve -c|--config FILE

Serves as the configuration says, until SIGTERM or SIGINT: then all connections end, and their containers are removed.
SIGHUP has the file read again, and all files that it names: new connections get the new settings, old ones keep theirs.

Exit status: 0 after a signal, 1 where it cannot serve, 2 where the command line is wrong.
";

const CHECK: &str = "\
Usage: berth check -c|--config FILE
       berth check --explain KEY|WORD
       berth check --schema

With a file: prints every error in it, by line and path, and what else 'berth serve' would end at; and warnings of what
is dangerous, or has no effect. It makes nothing, and asks no daemon.

  --explain KEY    says what a key is for, and what it may hold: ssh.listen. A word that is no key, as memory, finds all
                   keys in whose names it is
  --schema         prints a JSON Schema (2020-12) of configurations, by which editors complete and check

Exit status: 0 where nothing is wrong, 1 where something is, 2 where the command line is wrong.
";

const KEYGEN: &str = "\
Usage: berth keygen [-t|--type ed25519|ecdsa|rsa] -f|--file FILE
       berth keygen -t password
       berth keygen -t totp [-C|--comment NAME]

Makes a host key in FILE, which must not be there yet, with mode 0600, and its public half in FILE.pub, and prints that.

  -t password      makes a hash, for auth.users.NAME.password, of a password that is asked for, or of the first line of
                   standard input where that is no terminal
  -t totp          makes a secret, for auth.users.NAME.totp, and prints it, and the URI that programs which make codes
                   take, as a QR code or by hand; they show the name
";

const AGENT: &str = "\
Usage: berth agent --socket PATH|--stdio|--listen PATH [--unlink] [-- COMMAND...]
       berth agent join PATH
       berth agent install PATH
       berth agent wait
       berth agent unlink
       berth agent sftp [OPTION...]
       berth agent scp ARGUMENT...
       berth agent exec COMMAND

What runs in containers and serves their users. berth starts it itself: there is no need to call it.

  --socket PATH    serves the server that listens on this unix socket
  --stdio          serves the server at its standard input and output
  --listen PATH    serves the one who joins at this unix socket
  --unlink         removes its own file first
  COMMAND          the image's own command: what a shell is where the container's user has none
  join             gives its standard input and output to the agent that listens at PATH
  install          copies itself to PATH
  wait             keeps a container running that agents come and go in
  unlink           removes its own file
  sftp, scp        the far end of a client's sftp and scp, for images without their own; sftp takes the options of
                   sftp-server(8)
  exec             runs a command in an image without a shell

Exit status: 0 where its server or SIGTERM ended it, 1 after an error, 2 where the command line is wrong; exec, that of
the command.
";

/// What is said of a command; none where there is no such.
pub fn of(command: &str) -> Option<&'static str> {
    match command {
        "serve" => Some(SERVE),
        "check" => Some(CHECK),
        "keygen" => Some(KEYGEN),
        "agent" => Some(AGENT),
        "help" | "version" => Some(ALL),
        _ => None,
    }
}
