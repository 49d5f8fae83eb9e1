//! A real directory, followed by inotify. Tests wait for events and reports, never for a time to pass.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::cluster::{Cluster, Dirty, ObjectName, ServiceKind};

/// Longer than anything here should take.
const LIMIT: Duration = Duration::from_secs(20);

struct Rig {
    root: TempDir,
    source: Manifests,
    cluster: Cluster,
    dirty: Dirty,
}

impl Rig {
    async fn open(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        for (name, text) in files {
            fs::write(root.path().join("dir").join(name), text).unwrap();
        }
        Self::reopen(root).await
    }

    async fn reopen(root: TempDir) -> Self {
        let source = Manifests::open(root.path().join("dir"), settings(root.path())).unwrap();
        let mut rig = Self { root, source, cluster: Cluster::default(), dirty: Dirty::default() };
        rig.next().await;
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("dir").join(name)
    }

    async fn next(&mut self) {
        let events = timeout(LIMIT, self.source.next()).await.expect("no event came");
        for event in events {
            self.cluster.apply(event, &mut self.dirty);
        }
    }

    /// Takes in events until the Services are these.
    async fn services_become(&mut self, wanted: &[&str]) {
        while self.services() != wanted {
            self.next().await;
        }
    }

    /// Follows the directory until the report satisfies `wanted`; no event may come meanwhile.
    async fn report_becomes(&mut self, wanted: impl Fn(&Report) -> bool) {
        let mut reports = self.source.reports();
        let reported = async { reports.wait_for(wanted).await.map(|_| ()).expect("the source goes on") };
        tokio::select! {
            events = self.source.next() => panic!("events: {events:?}"),
            done = timeout(LIMIT, reported) => done.expect("no such report came"),
        }
    }

    fn services(&self) -> Vec<String> {
        self.cluster.services().map(|service| service.name.name.to_string()).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.source.report().problems.iter().map(ToString::to_string).collect()
    }
}

fn settings(root: &Path) -> Settings {
    Settings {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        state_file: Some(root.join("state/clusterips.json")),
        pods: false,
    }
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n"
    )
}

#[tokio::test]
async fn the_first_batch_is_everything_and_bad_files_do_not_keep_it() {
    let rig = Rig::open(&[
        ("a.yaml", &(service("a") + &service("b"))),
        ("b.yml", "apiVersion: v1\nkind: [Service\n"),
        (
            "c.json",
            "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"c\"}, \
                     \"spec\": {\"ports\": [{\"port\": 0}]}}",
        ),
        ("d.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"),
        (".hidden.yaml", &service("hidden")),
        ("notes.txt", "not yaml: ["),
    ])
    .await;
    assert_eq!(rig.services(), ["a", "b"]);
    let report = rig.source.report();
    assert_eq!((report.files, report.file_errors, report.object_errors_total), (4, 1, 1));
    assert_eq!(report.objects[&Kind::Service], 2);
    let problems = rig.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("b.yml:2: ") || problems[0].starts_with("b.yml:3: "), "{problems:?}");
    assert_eq!(problems[1], "c.json:1: Service default/c: spec.ports[0].port: 0 is outside 1..=65535");
}

#[tokio::test]
async fn an_empty_directory_gives_an_empty_first_batch_and_a_missing_one_an_error() {
    let mut rig = Rig::open(&[]).await;
    assert!(rig.services().is_empty());
    fs::write(rig.path("a.yaml"), service("a")).unwrap();
    rig.services_become(&["a"]).await;
    let missing = rig.root.path().join("missing");
    let error = Manifests::open(missing.clone(), Settings::default()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot follow the directory {}", missing.display()));
    let file = Manifests::open(rig.path("a.yaml"), Settings::default());
    assert!(matches!(file, Err(Error::Directory(..))));
}

#[tokio::test]
async fn files_that_are_written_moved_and_deleted_take_effect() {
    let mut rig = Rig::open(&[("a.yaml", &service("a"))]).await;
    fs::write(rig.path("b.yaml"), service("b")).unwrap();
    rig.services_become(&["a", "b"]).await;
    fs::write(rig.path(".b.tmp"), service("b") + &service("c")).unwrap();
    fs::rename(rig.path(".b.tmp"), rig.path("b.yaml")).unwrap();
    rig.services_become(&["a", "b", "c"]).await;
    fs::rename(rig.path("b.yaml"), rig.path("b.off")).unwrap();
    rig.services_become(&["a"]).await;
    fs::remove_file(rig.path("a.yaml")).unwrap();
    rig.services_become(&[]).await;
    assert_eq!(rig.source.report().files, 0);
}

#[tokio::test]
async fn a_file_takes_effect_only_when_it_is_closed() {
    use std::io::Write;
    let mut rig = Rig::open(&[("a.yaml", &(service("a") + &service("b")))]).await;
    let mut file = fs::File::create(rig.path("a.yaml")).unwrap();
    file.write_all(service("a").as_bytes()).unwrap();
    file.sync_all().unwrap();
    fs::write(rig.path("z.yaml"), service("z")).unwrap();
    rig.services_become(&["a", "b", "z"]).await;
    file.write_all(service("c").as_bytes()).unwrap();
    drop(file);
    rig.services_become(&["a", "c", "z"]).await;
}

#[tokio::test]
async fn a_truncated_or_torn_file_keeps_its_last_good_content() {
    let mut rig = Rig::open(&[("a.yaml", &service("a"))]).await;
    fs::write(rig.path("a.yaml"), "").unwrap();
    rig.report_becomes(|report| report.file_errors == 1).await;
    assert_eq!(rig.problems(), ["a.yaml: holds no documents; its last good content stays in force"]);
    fs::write(rig.path("a.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: a\n").unwrap();
    rig.report_becomes(|report| report.problems.iter().any(|problem| problem.line.is_some())).await;
    assert_eq!(rig.source.report().file_errors, 1);
    fs::write(rig.path("a.yaml"), service("b")).unwrap();
    rig.services_become(&["b"]).await;
    assert!(rig.problems().is_empty());
}

#[tokio::test]
async fn a_rewrite_without_a_difference_gives_no_events() {
    let mut rig = Rig::open(&[("a.yaml", &service("a"))]).await;
    let before = rig.source.report().reloads_total;
    fs::write(rig.path("a.yaml"), format!("# again\n{}", service("a"))).unwrap();
    rig.report_becomes(|report| report.reloads_total > before).await;
}

#[tokio::test]
async fn a_vanished_directory_takes_nothing_away_and_is_followed_again_when_it_is_back() {
    let mut rig = Rig::open(&[("a.yaml", &service("a")), ("b.yaml", &service("b"))]).await;
    let (dir, away) = (rig.root.path().join("dir"), rig.root.path().join("away"));
    fs::rename(&dir, &away).unwrap();
    rig.report_becomes(|report| report.directory_missing).await;
    assert!(rig.problems()[0].contains("all that was read stays in force"), "{:?}", rig.problems());
    fs::create_dir(&dir).unwrap();
    rig.report_becomes(|report| !report.directory_missing).await;
    fs::write(rig.path("a.yaml"), service("a") + &service("c")).unwrap();
    rig.services_become(&["a", "b", "c"]).await;
    rig.services_become(&["a", "c"]).await;
    fs::write(away.join("a.yaml"), service("elsewhere")).unwrap();
    fs::write(rig.path("d.yaml"), service("d")).unwrap();
    rig.services_become(&["a", "c", "d"]).await;
}

#[tokio::test]
async fn a_directory_deleted_with_all_its_files_takes_nothing_away() {
    let mut rig = Rig::open(&[("a.yaml", &service("a"))]).await;
    let dir = rig.root.path().join("dir");
    fs::remove_dir_all(&dir).unwrap();
    rig.report_becomes(|report| report.directory_missing).await;
    assert_eq!(rig.services(), ["a"]);
    fs::create_dir(&dir).unwrap();
    fs::write(rig.path("b.yaml"), service("b")).unwrap();
    rig.services_become(&["a", "b"]).await;
    rig.services_become(&["b"]).await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_the_swap_of_its_link() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("dir");
    for (version, names) in [("..1", ["a", "b"]), ("..2", ["a", "c"])] {
        fs::create_dir_all(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("all.yaml"), names.map(service).concat()).unwrap();
    }
    symlink("..1", dir.join("..data")).unwrap();
    symlink("..data/all.yaml", dir.join("all.yaml")).unwrap();
    let mut rig = Rig::reopen(root).await;
    assert_eq!(rig.services(), ["a", "b"]);
    symlink("..2", dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    rig.services_become(&["a", "c"]).await;
    fs::remove_dir_all(dir.join("..2")).unwrap();
    fs::write(rig.path("d.yaml"), service("d")).unwrap();
    rig.services_become(&["a", "c", "d"]).await;
}

#[tokio::test]
async fn a_link_to_a_file_elsewhere_is_followed_by_the_slow_look() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("dir")).unwrap();
    let elsewhere = root.path().join("elsewhere");
    fs::write(&elsewhere, service("a")).unwrap();
    symlink(&elsewhere, root.path().join("dir/a.yaml")).unwrap();
    let mut rig = Rig::reopen(root).await;
    fs::write(&elsewhere, service("b")).unwrap();
    rig.source.rescan_at = Instant::now();
    rig.services_become(&["b"]).await;
    fs::remove_file(&elsewhere).unwrap();
    rig.source.rescan_at = Instant::now();
    rig.report_becomes(|report| report.file_errors == 1).await;
    assert_eq!(rig.services(), ["b"], "a link to nothing is no deletion");
    symlink(rig.root.path().join("nothing"), rig.path("pipe.yaml")).unwrap();
    rig.report_becomes(|report| report.file_errors == 2).await;
}

#[tokio::test]
async fn next_may_be_dropped_at_any_point_and_loses_nothing() {
    let mut rig = Rig::open(&[]).await;
    fs::write(rig.path("a.yaml"), service("a")).unwrap();
    let begun = std::time::Instant::now();
    let mut dropped = 0;
    let events = loop {
        assert!(begun.elapsed() < LIMIT, "no event came");
        tokio::select! {
            biased;
            events = rig.source.next() => break events,
            () = tokio::task::yield_now() => dropped += 1,
        }
    };
    assert!(dropped > 1);
    assert_eq!(events.len(), 2, "{events:?}");
}

#[tokio::test]
async fn assigned_cluster_ips_stay_over_a_restart_with_other_files() {
    let mut rig = Rig::open(&[("b.yaml", &service("ent"))]).await;
    let address = |rig: &Rig| match &rig.cluster.service(&ObjectName::new("default", "ent")).unwrap().kind {
        ServiceKind::ClusterIp(addresses) => addresses.clone(),
        other => panic!("{other:?}"),
    };
    let before = address(&rig);
    let thief = service("a-thief").replace("spec: {", &format!("spec: {{clusterIP: {}, ", before[0]));
    fs::write(rig.path("a.yaml"), &thief).unwrap();
    rig.report_becomes(|report| !report.problems.is_empty()).await;
    let wanted = format!(
        "a.yaml:1: Service default/a-thief: spec.clusterIP: {} is in force for Service default/ent",
        before[0]
    );
    assert_eq!(rig.problems(), [wanted]);
    let Rig { root, source, .. } = rig;
    drop(source);
    let rig = Rig::reopen(root).await;
    assert_eq!(address(&rig), before);
    assert_eq!(rig.services(), ["ent"]);
}
