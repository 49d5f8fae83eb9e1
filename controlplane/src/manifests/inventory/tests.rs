//! Which version of an object is in force, whatever happens to the files.

use super::super::file;
use super::*;

fn content(yaml: &str) -> Content {
    file::read("x.yaml", yaml.as_bytes()).unwrap()
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n")
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n"
    )
}

fn name(name: &str) -> Arc<str> {
    name.into()
}

/// Returns what changed as `+`, `-` or `~` before the key.
fn shown(changes: Vec<Change>) -> Vec<String> {
    let sign = |change: &Change| match (&change.before, &change.after) {
        (None, _) => '+',
        (_, None) => '-',
        _ => '~',
    };
    changes.iter().map(|change| format!("{}{}", sign(change), change.key)).collect()
}

fn problems(inventory: &Inventory) -> Vec<String> {
    inventory.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn a_rewrite_changes_only_what_differs() {
    let mut inventory = Inventory::default();
    let first = inventory.apply(&name("a.yaml"), content(&(service("a", "1") + &service("b", "1"))));
    assert_eq!(shown(first), ["+Service default/a", "+Service default/b"]);
    let second = inventory.apply(&name("a.yaml"), content(&(service("b", "2") + &service("c", "1"))));
    assert_eq!(shown(second), ["-Service default/a", "~Service default/b", "+Service default/c"]);
    let same = inventory.apply(&name("a.yaml"), content(&(service("c", "1") + &service("b", "2"))));
    assert_eq!(shown(same), Vec::<String>::new());
    assert_eq!(shown(inventory.remove(&name("a.yaml"))), ["-Service default/b", "-Service default/c"]);
    assert!(problems(&inventory).is_empty());
}

#[test]
fn a_bad_object_keeps_its_last_good_version_and_the_others_change() {
    let mut inventory = Inventory::default();
    inventory.apply(&name("a.yaml"), content(&(service("a", "1") + &service("b", "1"))));
    let changes = inventory.apply(&name("a.yaml"), content(&(service("a", "0") + &service("b", "2"))));
    assert_eq!(shown(changes), ["~Service default/b"]);
    assert_eq!(
        problems(&inventory),
        ["a.yaml:1: Service default/a: spec.ports[0].port: 0 is outside 1..=65535"]
    );
    assert!(!inventory.is_sound());
    inventory.apply(&name("a.yaml"), content(&service("b", "2")));
    assert!(problems(&inventory).is_empty(), "a document that is gone is no fault");
}

#[test]
fn a_document_that_does_not_say_what_it_is_takes_nothing_out_of_force() {
    let mut inventory = Inventory::default();
    inventory.apply(&name("a.yaml"), content(&(service("a", "1") + &namespace("dev"))));
    let nameless = "apiVersion: v1\nkind: Service\nmetadata: {}\n";
    let changes = inventory.apply(&name("a.yaml"), content(nameless));
    assert_eq!(shown(changes), ["-Namespace dev"], "it may be the Service, it is no Namespace");
    inventory.apply(&name("a.yaml"), content(&(service("a", "1") + &namespace("dev"))));
    assert_eq!(shown(inventory.apply(&name("a.yaml"), content("{}"))), Vec::<String>::new());
}

#[test]
fn a_file_without_documents_is_being_rewritten() {
    let mut inventory = Inventory::default();
    inventory.apply(&name("a.yaml"), content(&service("a", "1")));
    for empty in ["", "# nothing\n", "---\n---\n"] {
        assert!(inventory.apply(&name("a.yaml"), content(empty)).is_empty());
        assert_eq!(
            problems(&inventory),
            ["a.yaml: holds no documents; its last good content stays in force"]
        );
    }
    assert_eq!(inventory.files(), (1, 1));
    inventory.apply(&name("a.yaml"), content(&service("a", "1")));
    assert!(problems(&inventory).is_empty());
}

#[test]
fn a_file_that_fails_keeps_its_last_good_content() {
    let mut inventory = Inventory::default();
    inventory.apply(&name("a.yaml"), content(&service("a", "1")));
    inventory.fail(&name("a.yaml"), &FileFault { line: Some(3), what: "is torn".into() });
    assert_eq!(problems(&inventory), ["a.yaml:3: is torn; its last good content stays in force"]);
    assert_eq!(inventory.of_kind(Kind::Service, None).count(), 1);
}

#[test]
fn of_one_object_in_two_files_the_first_file_by_name_is_in_force() {
    let mut inventory = Inventory::default();
    inventory.apply(&name("b.yaml"), content(&service("a", "1")));
    assert_eq!(shown(inventory.apply(&name("c.yaml"), content(&service("a", "2")))), Vec::<String>::new());
    let what =
        "Service default/a: is also in b.yaml, which is first in the order of names and stays in force";
    assert_eq!(problems(&inventory), [format!("c.yaml:1: {what}")]);
    assert_eq!(shown(inventory.apply(&name("a.yaml"), content(&service("a", "3")))), ["~Service default/a"]);
    inventory.remove(&name("a.yaml"));
    assert_eq!(shown(inventory.remove(&name("b.yaml"))), ["~Service default/a"]);
    assert!(problems(&inventory).is_empty());
}

#[test]
fn of_one_object_twice_in_a_file_the_first_is_in_force() {
    let mut inventory = Inventory::default();
    inventory.apply(&name("a.yaml"), content(&(service("a", "1") + &service("a", "2"))));
    let what = "Service default/a: is also at line 1 of this file; that one stays in force";
    assert_eq!(problems(&inventory), [format!("a.yaml:6: {what}")]);
}

#[test]
fn yaml_that_does_not_parse_is_refused_whole_with_its_line() {
    let torn = format!("{}apiVersion: v1\nkind: [Service\nmetadata: x\n", service("a", "1"));
    let fault = file::read("a.yaml", torn.as_bytes()).unwrap_err();
    assert!(fault.line.is_some_and(|line| (6..=9).contains(&line)), "{fault:?}");
    let fault = file::read("a.yaml", b"a: 1\nb: \xff\n").unwrap_err();
    assert_eq!((fault.line, &*fault.what), (Some(2), "is no UTF-8 text"));
    let fault = file::read("a.yaml", b"a: 1\nb: 2\na: 3\n").unwrap_err();
    assert_eq!(fault.line, Some(3), "a key twice: {fault:?}");
}

#[test]
fn json_is_read_with_lines_and_several_documents() {
    let two = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}\n\n\
               {\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"b\"}}\n";
    let lines: Vec<u64> =
        file::read("a.json", two.as_bytes()).unwrap().into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [1, 3]);
    let fault = file::read("a.json", b"{\n\"kind\": }\n").unwrap_err();
    assert_eq!(fault.line, Some(2), "{fault:?}");
}

#[test]
fn an_alias_bomb_is_refused_and_not_unfolded() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    assert!(file::read("a.yaml", bomb.as_bytes()).is_err());
}
