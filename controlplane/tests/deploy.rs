//! The files of `tools/deploy` say what they are meant to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate::cli::{self, Command as Subcommand, Source};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join("tools/deploy").join(file)).unwrap()
}

fn documents(file: &str) -> Vec<Value> {
    text(file).split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Reads an object as the API's own type, which must know every field of it.
#[track_caller]
fn read<T: Resource + Serialize + DeserializeOwned>(document: &Value) -> T {
    assert_eq!(
        (document["apiVersion"].as_str(), document["kind"].as_str()),
        (Some(T::API_VERSION), Some(T::KIND))
    );
    let object: T = serde_json::from_value(document.clone()).unwrap();
    assert_has_all(&serde_json::to_value(&object).unwrap(), document, T::KIND);
    object
}

/// Asserts that nothing of `written` was lost on the way to `known`.
#[track_caller]
fn assert_has_all(known: &Value, written: &Value, place: &str) {
    match written {
        Value::Object(fields) => {
            for (name, field) in fields {
                assert_has_all(&known[name], field, &format!("{place}.{name}"));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                assert_has_all(&known[index], item, &format!("{place}[{index}]"));
            }
        }
        value => assert_eq!(known, value, "{place} is no field of Kubernetes' API"),
    }
}

fn only<T: Resource + Serialize + DeserializeOwned>(file: &str) -> T {
    let documents = documents(file);
    assert_eq!(documents.len(), 1, "{file}");
    read(&documents[0])
}

fn pods() -> [PodSpec; 2] {
    let daemon_set: DaemonSet = only("daemonset.yaml");
    let deployment: Deployment = only("deployment.yaml");
    [daemon_set.spec.unwrap().template.spec.unwrap(), deployment.spec.unwrap().template.spec.unwrap()]
}

#[test]
fn manifests_hold_what_kubernetes_api_knows_and_nothing_else() {
    for pod in pods() {
        let [container] = &pod.containers[..] else { panic!("{} containers", pod.containers.len()) };
        assert_eq!((pod.host_network, pod.service_account_name.as_deref()), (Some(true), Some("tidegate")));
        let volumes: BTreeSet<&str> =
            pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
        let mounts = container.volume_mounts.iter().flatten();
        assert_eq!(mounts.map(|mount| mount.name.as_str()).collect::<BTreeSet<_>>(), volumes);
        let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
        let paths = probes.map(|probe| probe.clone().unwrap().http_get.unwrap().path.unwrap());
        assert_eq!(paths, ["/healthz", "/healthz", "/readyz"]);
    }
    let [daemon_set, deployment] = pods();
    assert_eq!(PodSpec { affinity: None, ..deployment }, daemon_set, "the pods of both are alike");
}

#[test]
fn the_settings_of_the_manifests_are_settings_of_the_program() {
    let config: ConfigMap = only("config.yaml");
    let data = config.data.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, &data["tidegate.toml"]).unwrap();
    for pod in pods() {
        let container = &pod.containers[0];
        let arguments = container.args.clone().unwrap();
        let mut given: Vec<String> = vec!["tidegate".to_owned()];
        given.extend(arguments.into_iter().map(|argument| match argument.as_str() {
            "/etc/tidegate/tidegate.toml" => file.path().display().to_string(),
            _ => argument,
        }));
        let Subcommand::Run(run) = cli::parse(given.into_iter().map(Into::into)).unwrap().command else {
            panic!()
        };
        assert_eq!(run.cluster.source, Source::Kubernetes);
        let mounts: Vec<String> =
            container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.clone()).collect();
        for directory in [&run.state_dir, run.cluster_file.unwrap().parent().unwrap()] {
            assert!(mounts.contains(&directory.display().to_string()), "{} is mounted", directory.display());
        }
        let metrics = run.metrics.unwrap();
        let probe = container.readiness_probe.clone().unwrap().http_get.unwrap();
        assert_eq!(probe.host.unwrap(), metrics.ip().to_string());
        assert_eq!(serde_json::to_value(probe.port).unwrap(), metrics.port());

        let variables: Vec<&str> =
            container.env.iter().flatten().map(|variable| variable.name.as_str()).collect();
        let help = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["run", "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for variable in &variables {
            let known =
                ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "HOST_IP", "TIDEGATE_SYSCTL_NET"];
            assert!(known.contains(variable) || help.contains(&format!("[env: {variable}=")), "{variable}");
        }
        for reference in container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| variable.value_from.as_ref()?.config_map_key_ref.as_ref())
        {
            assert!(data.contains_key(&reference.key), "{}", reference.key);
        }
    }
}

#[test]
fn the_account_may_look_and_write_events_and_nothing_more() {
    let documents = documents("account.yaml");
    let [account, role, binding] = &documents[..] else { panic!() };
    let account: ServiceAccount = read(account);
    let role: ClusterRole = read(role);
    let binding: ClusterRoleBinding = read(binding);
    let mut may = BTreeSet::new();
    for rule in role.rules.unwrap() {
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    may.insert(format!("{verb} {resource}.{group}"));
                }
            }
        }
    }
    let mut needs = BTreeSet::from(["create events.".to_owned()]);
    for resource in ["services.", "namespaces.", "nodes.", "pods.", "endpointslices.discovery.k8s.io"] {
        needs.extend(["list", "watch"].map(|verb| format!("{verb} {resource}")));
    }
    assert_eq!(may, needs);
    assert_eq!(binding.role_ref.name, role.metadata.name.unwrap());
    assert_eq!(binding.subjects.unwrap()[0].name, account.metadata.name.unwrap());
}

#[test]
fn cluster_dns_leads_to_the_gateways() {
    let service: Service = only("kube-dns.yaml");
    let spec = service.spec.unwrap();
    let daemon_set: DaemonSet = only("daemonset.yaml");
    let labels = daemon_set.spec.unwrap().template.metadata.unwrap().labels.unwrap();
    assert!(spec.selector.unwrap().iter().all(|(name, value)| labels.get(name) == Some(value)));
    let address = spec.cluster_ip.unwrap();
    for pod in pods() {
        let listen =
            pod.containers[0].env.iter().flatten().find(|own| own.name == "TIDEGATE_DNS_LISTEN").unwrap();
        assert_eq!(listen.value.as_deref(), Some(format!("{address},$(HOST_IP)").as_str()));
    }
}

/// The capabilities of a container, as `CAP_...`.
fn capabilities(pod: &PodSpec) -> BTreeSet<String> {
    let context = pod.containers[0].security_context.clone().unwrap();
    assert_eq!((context.privileged, context.allow_privilege_escalation), (Some(false), Some(false)));
    let capabilities = context.capabilities.unwrap();
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
    capabilities.add.unwrap().into_iter().map(|name| format!("CAP_{name}")).collect()
}

#[test]
fn manifests_and_the_unit_give_the_same_capabilities_and_the_readme_says_why() {
    let [daemon_set, deployment] = pods();
    let given = capabilities(&daemon_set);
    assert_eq!(capabilities(&deployment), given);
    let unit = text("tidegate.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    assert_eq!(line.split(' ').map(str::to_owned).collect::<BTreeSet<_>>(), given);
    let readme = text("README.md");
    for capability in &given {
        let name = capability.trim_start_matches("CAP_");
        assert!(readme.contains(&format!("| {name} | ")), "{name}");
    }
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: no systemd-analyze");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("tidegate.service");
    // The check wants the program to be there.
    fs::write(
        &unit,
        text("tidegate.service").replace("/usr/local/bin/tidegate", env!("CARGO_BIN_EXE_tidegate")),
    )
    .unwrap();
    let seen = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&seen.stderr);
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("tidegate.service")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The instructions of the container file, each with its words.
fn instructions() -> Vec<(String, String)> {
    let lines = text("Dockerfile");
    let lines = lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect()
}

#[test]
fn the_container_file_copies_what_is_there_and_its_base_has_the_binarys_libraries() {
    for (name, rest) in instructions() {
        let words: Vec<&str> = rest.split(' ').collect();
        if name == "COPY" && !rest.starts_with("--from") {
            for source in &words[..words.len() - 1] {
                assert!(root().join(source).exists(), "{source}");
            }
        }
    }
    let seen = Command::new("ldd").arg(env!("CARGO_BIN_EXE_tidegate")).output().unwrap();
    let said = String::from_utf8(seen.stdout).unwrap();
    let libraries: BTreeSet<&str> = said
        .lines()
        .map(|line| line.split_whitespace().next().unwrap().rsplit('/').next().unwrap())
        .collect();
    let base = ["ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libm.so.6", "linux-vdso.so.1"];
    assert!(libraries.is_subset(&BTreeSet::from(base)), "{libraries:?}");
}

#[test]
#[ignore = "builds the optimised binary from nothing"]
fn the_commands_of_the_container_file_make_the_binary() {
    let directory = tempfile::tempdir().unwrap();
    let mut ran = 0;
    for (name, rest) in instructions() {
        match name.as_str() {
            "COPY" if !rest.starts_with("--from") => {
                let copy = format!("cp -a {rest} '{}'", directory.path().display());
                let copy = if rest.starts_with("Cargo") {
                    copy.replace(" ./ ", " ")
                } else {
                    format!("cp -a {} '{}/'", rest.split(' ').next().unwrap(), directory.path().display())
                };
                assert!(
                    Command::new("sh").args(["-c", &copy]).current_dir(root()).status().unwrap().success(),
                    "{copy}"
                );
            }
            "RUN" => {
                let run = Command::new("sh")
                    .args(["-c", &rest])
                    .current_dir(directory.path())
                    .env_remove("CARGO_TARGET_DIR")
                    .status();
                assert!(run.unwrap().success(), "{rest}");
                ran += 1;
            }
            _ => {}
        }
    }
    assert_eq!(ran, 2);
    let made = directory.path().join("target/release/tidegate");
    let seen = Command::new(made).arg("--version").output().unwrap();
    assert!(seen.status.success() && seen.stdout.starts_with(b"tidegate "), "{seen:?}");
}
