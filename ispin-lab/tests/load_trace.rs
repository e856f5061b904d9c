//! `ispin-load trace-dump`, from a folder that looks like a tracefs.

use std::fs;
use std::path::Path;
use std::process::Command as StdCommand;

use assert_cmd::Command;
use ispin_lab::load::trace_dump;
use rstest::rstest;

fn dump(tracing: &Path, options: &[&str], out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ispin-load"));
    command.arg("trace-dump").arg("--tracing").arg(tracing).args(options).arg(out);
    command
}

const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
                           \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
                           \tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";

/// Something that looks like a tracefs: two CPUs with some sub-buffers each.
fn fake_tracefs(subbuffers: [usize; 2]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, content).expect("a file");
    };
    put("events/header_page", HEADER_PAGE.as_bytes());
    put("events/ispinlock/enable", b"1\n");
    put("events/ispinlock/ispin_take/format", b"name: ispin_take\n");
    put("events/ispinlock/ispin_release/format", b"name: ispin_release\n");
    for (cpu, count) in subbuffers.into_iter().enumerate() {
        put(&format!("per_cpu/cpu{cpu}/stats"), format!("entries: {count}\n").as_bytes());
        let raw: Vec<u8> = (0..count * 4096).map(|i| (i / 4096 + cpu) as u8).collect();
        put(&format!("per_cpu/cpu{cpu}/trace_pipe_raw"), &raw);
    }
    folder
}

#[rstest]
#[case(false)]
#[case(true)]
fn a_trace_is_dumped(#[case] over_old_content: bool) {
    let tracing = fake_tracefs([300, 1]);
    let out = tempfile::NamedTempFile::new().expect("a file");
    if over_old_content {
        fs::write(out.path(), vec![0xaa; 8 << 20]).expect("old content");
    }
    dump(tracing.path(), &[], out.path()).assert().success();
    let members = trace_dump::members(fs::File::open(out.path()).expect("the archive")).expect("an archive");
    let names: Vec<&str> = members.iter().map(|member| member.0.as_str()).collect();
    assert_eq!(
        names,
        [
            "events/header_page",
            "events/ispinlock/ispin_release/format",
            "events/ispinlock/ispin_take/format",
            "per_cpu/cpu0/stats",
            "per_cpu/cpu0/trace_pipe_raw.00000",
            "per_cpu/cpu0/trace_pipe_raw.00001",
            "per_cpu/cpu0/stats.after",
            "per_cpu/cpu1/stats",
            "per_cpu/cpu1/trace_pipe_raw.00000",
            "per_cpu/cpu1/stats.after",
        ]
    );
    let raw: Vec<u8> =
        members.iter().filter(|m| m.0.starts_with("per_cpu/cpu0/trace")).flat_map(|m| m.1.clone()).collect();
    assert_eq!(raw, fs::read(tracing.path().join("per_cpu/cpu0/trace_pipe_raw")).expect("raw"));
    let tar = StdCommand::new("tar").arg("-tf").arg(out.path()).output().expect("tar");
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
}

#[test]
fn a_dump_that_failed_is_an_empty_archive() {
    let tracing = fake_tracefs([600, 1]);
    let out = tempfile::NamedTempFile::new().expect("a file");
    let assert = dump(tracing.path(), &["--limit-mib", "1"], out.path()).assert().code(1);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains("stop tracing first"), "{text}");
    let members = trace_dump::members(fs::File::open(out.path()).expect("the archive")).expect("an archive");
    assert_eq!(members, []);
}
