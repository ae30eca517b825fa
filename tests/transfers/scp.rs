//! `berth agent scp` beside OpenSSH's `scp`: both get the same records and answers in the same tree.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::tree::*;

const OPENSSH: &str = "scp";
const BERTH: &str = concat!(env!("CARGO_BIN_EXE_berth"), " agent scp");

/// Runs a far end with `arguments`, which a shell reads, and gives it all of its input at once.
fn run(scp: &str, directory: &Path, arguments: &str, input: &[u8]) -> Output {
    let mut child = command(&format!("{scp} {arguments}"), directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // One that has had enough reads no more.
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Both must give the same answers and exit status, and leave the same tree.
#[track_caller]
fn compare(name: &str, calls: &[(&str, &[u8])]) {
    let outcomes = [OPENSSH, BERTH].map(|scp| {
        let scratch = Scratch::new(name);
        plant(&scratch.0);
        let answers: Vec<_> = calls
            .iter()
            .map(|(arguments, input)| {
                let output = run(scp, &scratch.0, arguments, input);
                format!("{:?} {}", output.status.code(), output.stdout.escape_ascii())
            })
            .collect();
        (answers, tree(&scratch.0))
    });
    let [(expected, expected_tree), (answers, tree)] = outcomes;
    for (index, (expected, answer)) in expected.iter().zip(&answers).enumerate() {
        assert_eq!(expected, answer, "left OpenSSH, right berth; {:?}", calls[index].0);
    }
    assert_eq!(expected_tree, tree);
}

#[test]
fn files_are_taken_as_by_openssh() {
    compare(
        "scp-sink",
        &[
            ("-t .", b"C0644 3 new\nabc\0"),
            ("-t dir", b"C0644 0 empty\n\0C0600 1 second\nx\0"),
            ("-t renamed", b"C0640 3 original\nabc\0"),
            ("-t file", b"C0600 2 x\nab\0"),
            ("-t dir/one", b"C0600 2 x\nab\0"),
            ("-t .", b"C0444 4 read-only\nabcd\0"),
            ("-t .", b"C4777 1 special\nx\0"),
            ("-t link", b"C0644 1 x\ny\0"),
            ("-t broken", b"C0644 1 x\ny\0"),
            ("-t -- -v", b"C0644 1 x\ny\0"),
            ("-qvCt ./", b"C0644 1 more\ny\0"),
            ("-t dir", b"C0644 1 a b'\"\\\xff*\ny\0"),
        ],
    );
}

#[test]
fn modes_and_times_are_kept_as_by_openssh() {
    compare(
        "scp-preserve",
        &[
            ("-p -t .", b"T900000000 0 900000001 0\nC4757 3 new\nabc\0"),
            ("-p -t .", b"T900000000 5 900000001 999999\nC0404 3 file\nabc\0"),
            ("-p -t .", b"C0677 3 without-times\nabc\0"),
            ("-t .", b"T900000000 0 900000001 0\nC0644 1 unasked\na\0"),
            ("-rpt .", b"T900000000 0 900000000 0\nD0511 0 made\nT900000000 0 900000000 0\nC0604 1 in\nx\0E\n"),
            ("-rpt .", b"T800000000 0 800000000 0\nD0700 0 dir\nE\n"),
            ("-pt .", b"T99999999999999999999 0 900000000 0\nC0604 1 far-away\nx\0"),
        ],
    );
}

#[test]
fn directories_are_taken_as_by_openssh() {
    compare(
        "scp-sink-directories",
        &[
            ("-r -t .", b"D0755 0 made\nC0644 1 a\nx\0D0500 0 inner\nC0644 1 b\ny\0E\nE\nC0644 1 beside\nz\0"),
            ("-r -t new", b"D0750 0 made\nC0644 1 a\nx\0E\n"),
            ("-r -t dir", b"D0755 0 sub\nC0644 1 into\nx\0E\n"),
            ("-r -t .", b"D0755 0 unfinished\nD0711 0 both\nC0644 1 a\nx\0"),
            ("-r -t .", b"E\nC0644 1 late\nx\0"),
            ("-r -t .", b"D0755 0 file\nC0644 1 into\nx\0"),
            ("-r -t missing/x", b"D0755 0 any\nC0644 1 into\nx\0"),
            ("-t .", b"D0755 0 unasked\nE\n"),
            ("-d -t dir", b"C0644 1 into\nx\0"),
            ("-d -t file", b"C0644 1 into\nx\0"),
            ("-d -t missing", b"C0644 1 into\nx\0"),
        ],
    );
}

#[test]
fn what_cannot_be_written_is_told_as_by_openssh_and_the_rest_goes_on() {
    compare(
        "scp-sink-failures",
        &[
            ("-t .", b"C0644 1 dir\nC0644 1 after\nx\0"),
            ("-t missing/x", b"C0644 1 a\nC0644 1 b\n"),
            ("-t file/x", b"C0644 1 a\n"),
            ("-t loop", b"C0644 1 a\n"),
            ("-t /dev/full", b"C0644 3 a\nabc\0C0644 200000 b\n"),
            ("-t ''", b"C0644 1 a\n"),
            ("-t .", &[b"C0644 1 ", &[b'n'; 300][..], b"\nC0644 1 after\nx\0"].concat()),
            ("-t a b", b"C0644 1 a\n"),
            ("-t", b"C0644 1 a\n"),
        ],
    );
}

#[test]
fn a_sender_may_complain_or_leave_as_with_openssh() {
    compare(
        "scp-sender",
        &[
            ("-t .", b""),
            ("-t .", b"\x01scp: x: No such file\nC0644 1 after\nx\0"),
            ("-t .", b"\x02scp: enough\nC0644 1 never\nx\0"),
            ("-t .", b"C0644 3 half\nabc\x01scp: half: Input/output error\nC0644 1 then\nx\0"),
            ("-t .", b"C0644 3 ended\nabc\x02scp: enough\nC0644 1 never\nx\0"),
            ("-t .", b"C0644 9 cut\n"),
            ("-t .", b"C0644 3 unanswered\nabc"),
            ("-t .", b"C0644 3 cut-na"),
            ("-t .", b"T1 0"),
        ],
    );
}

#[test]
fn nonsense_is_refused_as_by_openssh() {
    let records: [&[u8]; 23] = [
        b"\n",
        b"sh: something: not found\n",
        b"C0644 1 x\nx\0hello\n",
        b"C\n",
        b"C0689 1 x\n",
        b"C064 1 x\n",
        b"C0644x1 x\n",
        b"C0644  1 x\n",
        b"C0644 -1 x\n",
        b"C0644 1x\n",
        b"C0644 99999999999999999999 x\n",
        b"C0644 1 \n",
        b"C0644 1 .\n",
        b"C0644 1 ..\n",
        b"C0644 1 /etc/x\n",
        b"C0644 1 ../x\n",
        b"C0644 1 dir/x\n",
        b"D0755 0 ..\n",
        b"T\n",
        b"T1 2\n",
        b"T1 0 x 0\n",
        b"T1 0 1 0x\n",
        b"T1 1000000 1 0\n",
    ];
    compare("scp-nonsense", &records.map(|record| ("-r -p -t .", record)));
}

#[test]
fn files_are_sent_as_by_openssh() {
    compare(
        "scp-source",
        &[
            ("-f file", b"\0\0\0"),
            ("-f dir/one dir/sub/two", b"\0\0\0\0\0"),
            ("-f link ./file//", b"\0\0\0\0\0"),
            ("-f byte-*", b"\0\0\0"),
            ("-f missing broken loop dir file/x ''", b"\0"),
            ("-f missing file", b"\0\0\0"),
            ("-f /dev/null", b"\0"),
            ("-v -f -- file", b"\0\0\0"),
            ("-f", b"\0"),
        ],
    );
}

#[test]
fn times_are_sent_as_by_openssh() {
    // Each once: to be read changes the time of access.
    compare(
        "scp-source-times",
        &[
            ("-p -f file", b"\0\0\0\0"),
            ("-rp -f dir/sub/", b"\0\0\0\0\0\0\0"),
            ("-r -p -f dir dir/one", b"\0\x01no\n\0\x01no\n"),
        ],
    );
}

#[test]
fn directories_are_sent_as_by_openssh() {
    compare(
        "scp-source-directories",
        &[
            ("-r -f dir/sub", b"\0\0\0\0\0"),
            ("-r -f .", b"\0\x01no\n"),
            ("-r -f dir file", b"\0\x01no\n\0\0"),
            ("-f dir", b"\0"),
        ],
    );
}

#[test]
fn a_taker_may_complain_or_leave_as_with_openssh() {
    compare(
        "scp-taker",
        &[
            ("-f file", b""),
            ("-f file", b"\x01\n"),
            ("-f file dir/one", b"\0\x01scp: file: Permission denied\n\0\0"),
            ("-f file dir/one", b"\0\x02scp: enough\n\0\0"),
            ("-f file dir/one", b"\0garbage\n\0\0"),
            ("-f file dir/one", b"\0\0\x01scp: file: No space left on device\n\0\0"),
            ("-f file dir/one", b"\0\0"),
            ("-f file dir/one", b"\0\x01cut"),
        ],
    );
}

#[test]
fn a_file_that_became_shorter_is_filled_up_and_told() {
    // A file that says it has 4096 bytes, and has a few.
    let short = "/sys/kernel/uevent_seqnum";
    let scratch = Scratch::new("scp-short");
    let output = run(BERTH, &scratch.0, &format!("-f {short} {short}"), b"\0\0\0\0\0");
    let content = fs::read(short).unwrap();
    let filled = [&content[..], &vec![0; 4096 - content.len()]].concat();
    let complaint = format!("\x01scp: {short}: file became shorter\n");
    let expected = [b"C0444 4096 uevent_seqnum\n", &filled[..], complaint.as_bytes()].concat().repeat(2);
    assert_eq!(output.stdout.escape_ascii().to_string(), expected.escape_ascii().to_string());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_line_break_in_a_name_is_sent_as_by_openssh() {
    let sent = [OPENSSH, BERTH].map(|scp| {
        let scratch = Scratch::new("scp-newline");
        fs::write(scratch.0.join("a\\\nb"), "x").unwrap();
        run(scp, &scratch.0, "-f *", b"\0\0\0").stdout
    });
    assert_eq!(sent[0], sent[1]);
    // In a complaint, it must not end the line.
    let scratch = Scratch::new("scp-newline-missing");
    let output = run(BERTH, &scratch.0, "-f 'a\nb'", b"\0");
    assert_eq!(output.stdout, b"\x01scp: a\\^Jb: No such file or directory\n");
}

#[test]
fn links_in_a_circle_end() {
    let scratch = Scratch::new("scp-circle");
    fs::create_dir(scratch.0.join("d")).unwrap();
    symlink(".", scratch.0.join("d/again")).unwrap();
    let output = run(BERTH, &scratch.0, "-r -f d", &[0; 1000]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("again: Too many levels of symbolic links\n"), "{text}");
    assert!(text.ends_with("E\nE\n"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_fifo_is_not_waited_for() {
    let scratch = Scratch::new("scp-fifo");
    let made = command("mkfifo fifo", &scratch.0).status().unwrap();
    assert!(made.success());
    let output = run(BERTH, &scratch.0, "-f fifo", b"\0");
    assert_eq!(output.stdout, b"\x01scp: fifo: not a regular file\n");
}

#[test]
fn directories_without_end_are_bounded_by_the_length_of_a_path() {
    let scratch = Scratch::new("scp-deep");
    let record = format!("D0755 0 {}\n", "d".repeat(200));
    let output = run(BERTH, &scratch.0, "-r -t .", record.repeat(100).as_bytes());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.ends_with(": File name too long\n"), "{}", &text[text.len() - 100..]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn large_content_arrives() {
    let content: Vec<u8> = (0..=250).cycle().take(9_000_001).collect();
    let scratch = Scratch::new("scp-large");
    let input = [format!("C0644 {} large\n", content.len()).as_bytes(), &content, b"\0"].concat();
    assert_eq!(run(BERTH, &scratch.0, "-t .", &input).stdout, b"\0\0\0");
    assert!(fs::read(scratch.0.join("large")).unwrap() == content);
    let output = run(BERTH, &scratch.0, "-f large", b"\0\0\0");
    assert!(output.stdout == [b"C0640 9000001 large\n", &content[..], b"\0"].concat());
    assert!(output.status.success());
}

#[test]
fn what_it_does_is_told_where_that_is_wanted() {
    let scratch = Scratch::new("scp-verbose");
    plant(&scratch.0);
    let output = run(BERTH, &scratch.0, "-vrp -f dir/sub", &[0; 10]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("Entering directory: D0755 0 sub\n"), "{told}");
    assert!(told.contains("Sending file modes: C0644 0 two\n"), "{told}");
    let output = run(BERTH, &scratch.0, "-v -t .", b"C0644 1 x\nx\0");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "Sink: C0644 1 x\n");
}

#[test]
fn a_users_own_call_is_told_that_only_the_far_end_is_here() {
    let scratch = Scratch::new("scp-user");
    let output = run(BERTH, &scratch.0, "file host:", b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("scp -f or scp -t"));
}
