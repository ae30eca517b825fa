//! Stands in for the agent: connects to `--socket`, sends the command it was given as one line, and echoes the rest. A
//! command that begins with `exit` ends it at once, one that begins with `hang` makes it never connect.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn main() {
    let mut args = std::env::args().skip(1).skip_while(|arg| arg != "--socket").skip(1);
    let socket = args.next().expect("--socket PATH");
    let command: Vec<String> = args.skip(1).collect();
    match command.first().map(String::as_str) {
        Some("exit") => std::process::exit(7),
        Some("hang") => loop {
            std::thread::park();
        },
        _ => {}
    }
    let mut stream = UnixStream::connect(socket).expect("connect");
    writeln!(stream, "{}", command.join(" ")).expect("write");
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        stream.write_all(&buffer[..n]).expect("echo");
    }
}
