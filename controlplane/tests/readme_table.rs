//! The promises of the READMEs: every test that a table names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All Rust files below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The functions that follow a `#[test]` of whatever kind, and those that `for_both_families!` makes tests of.
fn tests_in(source: &str) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let (mut is_test, mut is_listed) = (false, false);
    for line in source.lines().map(str::trim) {
        is_listed = line == "for_both_families! {" || is_listed && line != "}";
        if is_listed && let Some(name) = line.strip_suffix(',') {
            tests.insert(name.to_owned());
        }
        let name = line.trim_start_matches("async ").strip_prefix("fn ");
        match name.and_then(|rest| rest.split_once(['(', '<'])) {
            Some((name, _)) if is_test => {
                tests.insert(name.to_owned());
                is_test = false;
            }
            Some(_) => is_test = false,
            None => is_test |= line == "#[test]" || line.starts_with("#[tokio::test"),
        }
    }
    tests
}

/// What stands in backticks in the columns of tables whose heading is `Test`.
fn named_in(readme: &str) -> Vec<String> {
    let mut named = Vec::new();
    let mut column = None;
    for line in readme.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            column = None;
        } else if let Some(column) = column {
            let cell: &&str = cells.get(column).unwrap_or_else(|| panic!("no test in {line}"));
            named.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        } else {
            column = cells.iter().position(|cell| *cell == "Test");
        }
    }
    named
}

#[test]
fn every_test_that_a_readme_names_is_there() {
    let mut files = Vec::new();
    for package in ["controlplane", "dataplane"] {
        sources(&root().join(package), &mut files);
    }
    let tests: BTreeSet<String> =
        files.iter().flat_map(|file| tests_in(&fs::read_to_string(file).unwrap())).collect();
    for (readme, at_least) in
        [("README.md", 15), ("controlplane/README.md", 70), ("dataplane/README.md", 110)]
    {
        let named = named_in(&fs::read_to_string(root().join(readme)).unwrap());
        assert!(named.len() >= at_least, "{readme} names {} tests", named.len());
        let missing: Vec<_> = named.iter().filter(|name| !tests.contains(*name)).collect();
        assert!(missing.is_empty(), "{readme} names tests that are not there: {missing:?}");
    }
}

#[test]
fn each_rule_of_a_service_has_a_row_and_a_test_of_its_number() {
    let readme = fs::read_to_string(root().join("controlplane/README.md")).unwrap();
    for number in 1..=37 {
        let rule = format!("K{number}");
        let rows: String = readme
            .lines()
            .filter(|line| {
                let first = line.trim_start_matches('|').split('|').next().unwrap_or_default();
                line.starts_with("| K") && first.split(',').any(|own| own.trim() == rule)
            })
            .collect();
        let own = |test: &str| test.split('_').any(|word| word == rule.to_lowercase());
        assert!(rows.split('`').skip(1).step_by(2).any(own), "{rule} has no test of its number: {rows}");
    }
}

#[test]
fn only_tests_and_only_columns_of_tests_are_read() {
    let source = "#[test]\n#[ignore]\nfn one() {}\nfn helper() {}\n#[tokio::test]\nasync fn two() {}\n\
                  for_both_families! {\n    three,\n}\nfn four() {\n    five,\n}\n";
    assert_eq!(tests_in(source), BTreeSet::from(["one", "three", "two"].map(str::to_owned)));
    let readme =
        "`no`\n\n| A | Test |\n|---|---|\n| `no` | `one`, `two` |\n\n| A | B |\n|---|---|\n| `no` | `no` |\n";
    assert_eq!(named_in(readme), ["one", "two"]);
}
