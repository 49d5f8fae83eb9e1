//! How the API server is found, and what we show it.

use super::*;

/// Gives a program the account of a pod where a kubelet mounts it, for its eyes alone, then becomes it.
const AS_IN_A_POD: &str = "mount -t tmpfs none /run
    account=/run/secrets/kubernetes.io/serviceaccount
    mkdir -p $account
    cp \"$1/ca.pem\" $account/ca.crt
    cp \"$1/token\" $account/token
    printf kube-system >$account/namespace
    shift
    exec \"$@\"";

#[test]
fn an_exec_plugin_gives_the_token_and_is_asked_again_when_that_is_refused() {
    let Some(scene) = Scene::set() else { return };
    let (answer, kubeconfig) = (scene.directory.path().join("answer"), scene.listener.kubeconfig());
    let issue = |token: &str| {
        let status = json!({ "token": token });
        let kind = "ExecCredential";
        let said = json!({ "apiVersion": "client.authentication.k8s.io/v1", "kind": kind, "status": status });
        fs::write(&answer, said.to_string()).unwrap();
        scene.server.set_tokens(&[token]);
    };
    issue("one");
    let by_file = format!("tokenFile: '{}'", scene.listener.token_file().display());
    let by_plugin = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: cat, args: ['{}'], interactiveMode: Never}}",
        answer.display()
    );
    let text = fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains(&by_file), "{text}");
    fs::write(&kubeconfig, text.replace(&by_file, &by_plugin)).unwrap();
    let gateway = scene.gateway();
    scene.assert_served();
    issue("two");
    scene.server.cut();
    scene.assert_follows();
    gateway.stop();
}

#[test]
fn a_pod_finds_the_api_server_by_the_account_that_is_mounted_into_it() {
    let Some(scene) = Scene::set() else { return };
    let (address, directory) = (scene.listener.address(), scene.directory.path().display().to_string());
    let host = format!("KUBERNETES_SERVICE_HOST={}", address.ip());
    let port = format!("KUBERNETES_SERVICE_PORT={}", address.port());
    let environment = ["env", "-u", "KUBECONFIG", "HOME=/nowhere", &host, &port];
    let account = ["unshare", "--mount", "sh", "-ec", AS_IN_A_POD, "sh", &directory];
    let arguments = ["--source", "kubernetes", "--watch-time", "2s"];
    scene.server.set_tokens(&["first"]);
    let gateway = Gateway::start_by(&scene.rig, &[&environment[..], &account].concat(), &arguments);
    scene.assert_served();
    scene.assert_follows();
    gateway.stop();
}

#[test]
fn an_api_server_that_cannot_be_is_named_before_anything_is_touched() {
    let Some(scene) = Scene::set() else { return };
    let refused = |kubeconfig: &str| {
        let arguments = ["--source", "kubernetes", "--kubeconfig", kubeconfig];
        refused_start(&scene.rig, &["client0", "pods0"], &arguments)
    };
    let (status, said) = refused("/nowhere/kubeconfig");
    assert!(status == 2 && said.contains("--kubeconfig /nowhere/kubeconfig: "), "{status}: {said}");
    let inside = scene.directory.path().join("inside");
    let text = fs::read_to_string(scene.listener.kubeconfig()).unwrap();
    let line = text.lines().find(|line| line.contains("server:")).unwrap();
    let server = line.split('\'').nth(1).unwrap();
    fs::write(&inside, text.replace(server, "https://10.96.0.1:443")).unwrap();
    let (status, said) = refused(inside.to_str().unwrap());
    assert!(status == 2 && said.contains("an address of --service-cidr"), "{status}: {said}");
}
