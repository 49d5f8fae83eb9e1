//! The committed object is what the committed source makes.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Another compiler makes other octets of the same program.
const CLANG: &str = "clang version 14.";

#[test]
fn the_committed_object_is_made_from_the_committed_source() {
    let Ok(clang) = Command::new("clang").arg("--version").output() else {
        println!("skipped: no clang");
        return;
    };
    let version = String::from_utf8_lossy(&clang.stdout).into_owned();
    if !version.contains(CLANG) || !Path::new("/usr/include/bpf/bpf_helpers.h").exists() {
        println!("skipped: no {CLANG} with libbpf's headers");
        return;
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/xdp");
    let rebuilt = std::env::temp_dir().join(format!("tgxsk-{}.bpf.o", std::process::id()));
    let build = Command::new(sources.join("build.sh")).arg(&rebuilt).output().unwrap();
    let octets = fs::read(&rebuilt);
    let _may_be_missing = fs::remove_file(&rebuilt);
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    assert!(
        octets.unwrap() == fs::read(sources.join("steer.bpf.o")).unwrap(),
        "run dataplane/src/xdp/build.sh"
    );
}
