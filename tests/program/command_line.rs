//! The program itself: what it says of itself, what it is made of, and how it asks.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{Berth, Client, Terminal};

fn berth(arguments: &[&str]) -> Client {
    Client::new(env!("CARGO_BIN_EXE_berth")).args(arguments)
}

#[test]
fn it_says_what_it_is_and_what_it_can_do() {
    let version = format!("berth {}\n", env!("CARGO_PKG_VERSION"));
    for word in ["--version", "-V", "version"] {
        berth(&[word]).run().succeeds().prints(&version);
    }
    for words in ["--help", "-h", "help"] {
        let help = berth(&[words]).run().succeeds().text();
        for command in ["serve --config", "check --config", "keygen", "agent"] {
            assert!(help.contains(&format!("\n  berth {command}")), "{words:?}: {help}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_status_2_and_tells_where_to_read_on() {
    for words in [&[][..], &["sevre"], &["--verison"], &["serve"], &["check", "x.yaml"], &["serve", "--config"]] {
        let ran = berth(words).run().exits(2).prints("").says("see 'berth --help'");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
}

/// The binary that `make build` makes: at the top of the target directory.
fn release_binary() -> PathBuf {
    let mut above = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().map(|parent| parent.join("berth"));
    above.find(|path| path.is_file()).expect("scripts/build has made target/berth; scripts/test runs it")
}

#[test]
fn the_binary_needs_no_other_file() {
    for binary in [release_binary(), env!("CARGO_BIN_EXE_berth").into()] {
        let headers = Client::new("readelf").args(["--wide", "--program-headers"]).arg(&binary).run().succeeds().text();
        assert!(headers.contains("LOAD") && !headers.contains("INTERP"), "{headers}");
        let dynamic = Client::new("readelf").args(["--wide", "--dynamic"]).arg(&binary).run().succeeds().text();
        assert!(!dynamic.contains("NEEDED"), "{dynamic}");
        let kind = Client::new("file").arg("--brief").arg(&binary).run().succeeds().text();
        assert!(kind.contains("statically linked") || kind.contains("static-pie linked"), "{kind}");
    }
}

#[test]
fn the_binary_has_no_writable_code_no_fixed_place_and_guarded_stacks() {
    // Debian's own toolchain cannot link a static position-independent executable: docs/building.md.
    let debian = option_env!("RUSTC_BOOTSTRAP").is_some();
    for binary in [release_binary(), env!("CARGO_BIN_EXE_berth").into()] {
        let readelf = |what: &str| Client::new("readelf").args(["--wide", what]).arg(&binary).run().succeeds().text();
        let headers = readelf("--program-headers");
        // The flags stand before the alignment.
        let flags = |line: &str| line.split_whitespace().rev().skip(1).take(2).collect::<String>();
        let segments = |kind: &str| {
            let lines = headers.lines().filter(|line| line.trim_start().starts_with(kind));
            lines.map(flags).collect::<Vec<_>>()
        };
        assert!(matches!(&segments("GNU_STACK")[..], [flags] if !flags.contains('E')), "{headers}");
        assert!(segments("LOAD").iter().all(|flags| !flags.contains('W') || !flags.contains('E')), "{headers}");
        if !debian {
            assert!(readelf("--file-header").contains("DYN (Position-Independent Executable file)"));
            assert!(headers.contains("GNU_RELRO"), "{headers}");
            let dynamic = readelf("--dynamic");
            assert!(dynamic.contains("BIND_NOW") && dynamic.contains("NOW PIE"), "{dynamic}");
        }
    }
    // One of each C library that has an array on its stack. The release has no names any more.
    for function in ["server_set_kex", "ERR_print_errors_cb", "inflate_table"] {
        let disassemble = format!("--disassemble={function}");
        let code = Client::new("objdump").args([&disassemble, env!("CARGO_BIN_EXE_berth")]).run().succeeds().text();
        assert!(code.contains("<__stack_chk_fail"), "{function}: {code}");
    }
}

#[test]
fn the_binary_has_8_megabytes_at_most() {
    let size = std::fs::metadata(release_binary()).unwrap().len();
    assert!(size <= 8_000_000, "{size} bytes");
}

/// `berth keygen -t password` at a terminal, whose modes are told at the end.
fn keygen() -> Terminal {
    let keygen = r#"trap : INT; "$0" keygen -t password; echo "status $?"; stty -a"#;
    Terminal::open(&Client::new("sh").args(["-c", keygen, env!("CARGO_BIN_EXE_berth")]), 24, 200, "")
}

/// The last words of [`keygen`], at a terminal that shows again what is typed.
#[track_caller]
fn ends(mut terminal: Terminal, status: i32) -> String {
    terminal.shows(&format!("status {status}\r\n"));
    terminal.shows("susp = ^Z;");
    terminal.shows(" echo ");
    let screen = terminal.text();
    terminal.wait().exits(0);
    screen
}

#[test]
fn a_person_types_a_new_password_twice_and_does_not_see_it() {
    let mut terminal = keygen();
    terminal.shows("Password: ");
    terminal.type_in("hidden words\n");
    terminal.shows("The same again: ");
    terminal.type_in("hidden wodrs\n");
    terminal.shows("These differ; try again.\r\nPassword: ");
    // A key for corrections is one.
    terminal.type_in("hidden wordz\x7fs\n");
    terminal.shows("The same again: ");
    terminal.type_in("hidden words\n");
    terminal.shows("$argon2id$v=19$");
    let screen = ends(terminal, 0);
    assert!(!screen.contains("hidden"), "{screen}");
}

#[test]
fn a_person_may_leave_and_the_terminal_is_as_before() {
    for (keys, words) in
        [("\x03", "berth: interrupted"), ("hid\x03", "berth: interrupted"), ("\x04", "no password given")]
    {
        let mut terminal = keygen();
        terminal.shows("Password: ");
        terminal.type_in(keys);
        terminal.shows(words);
        ends(terminal, 1);
    }
}

#[test]
fn two_berths_cannot_serve_as_one_instance() {
    let first = Berth::start();
    let serve = || berth(&["serve", "--config"]).arg(first.path("config.yaml")).spawn();
    let second = serve();
    second.stderr.line("is in use: another berth runs as this instance");
    second.wait().exits(1);
    first.exec("echo in").run().succeeds().prints("in\n");
}

#[test]
fn a_run_directory_that_others_could_replace_is_refused_at_the_start() {
    let berth = Berth::start();
    let open = berth.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let config = std::fs::read_to_string(berth.path("config.yaml")).unwrap();
    let config = config.replace("\"runDirectory\": \"run\"", "\"runDirectory\": \"open/run\"");
    std::fs::write(berth.path("other.yaml"), config).unwrap();
    let ran = self::berth(&["serve", "--config"]).arg(berth.path("other.yaml")).run();
    ran.exits(1).says("lets others put something else in its place");
    assert!(!open.join("run").exists());
}
