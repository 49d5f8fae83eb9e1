//! The directory of manifests that the gateway follows.

use std::fs;
use std::path::{Path, PathBuf};

use super::PODS;

/// A directory of YAML files, one Service or pod each.
pub(crate) struct Manifests {
    directory: PathBuf,
}

impl Manifests {
    /// Makes the directory with the Services of the rig and its pods.
    pub(crate) fn create(scratch: &Path) -> Self {
        let manifests = Self { directory: scratch.join("manifests") };
        fs::create_dir(&manifests.directory).unwrap();
        for namespace in ["default", "kube-system", "dev", "prod"] {
            manifests.write(&format!("namespace-{namespace}.yaml"), &namespace_manifest(namespace));
        }
        manifests.write("ent-dev.yaml", &service("dev", "ent", super::ENT_DEV, "enterprise"));
        manifests.write("ent-prod.yaml", &service("prod", "ent", super::ENT_PROD, "enterprise"));
        manifests.write("both-dev.yaml", &dual_stack_service("dev", "both", super::BOTH, "enterprise"));
        manifests.write("hollow.yaml", &service("dev", "hollow", super::HOLLOW, "nobody"));
        manifests.write("crew.yaml", &service("dev", "crew", "None", "enterprise"));
        manifests.write("system.yaml", SYSTEM);
        for (pod, address) in PODS {
            manifests.write_pod(pod, address);
        }
        manifests
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts a whole file in place at once, as editors and `kubectl` users do: written beside, then renamed.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let aside = self.directory.with_file_name("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.directory.join(file)).unwrap();
    }

    /// Overwrites a file where it stands; readers may see any part of it.
    pub(crate) fn overwrite(&self, file: &str, text: &str) {
        fs::write(self.directory.join(file), text).unwrap();
    }

    /// Removes a file.
    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.directory.join(file)).unwrap();
    }

    /// Writes the manifest of a ready pod `NAMESPACE-n` of its namespace's `enterprise`.
    pub(crate) fn write_pod(&self, name: &str, address: &str) {
        self.write(&format!("pod-{name}.yaml"), &pod(name, address));
    }

    /// Removes a pod's manifest.
    pub(crate) fn remove_pod(&self, name: &str) {
        self.remove(&format!("pod-{name}.yaml"));
    }
}

fn namespace_manifest(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

/// A Service with HTTP and UDP echo on 8080 and a named target port for lines on 9000.
pub(crate) fn service(namespace: &str, name: &str, cluster_ip: &str, app: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  clusterIP: {cluster_ip}
  selector: {{app: {app}}}
  ports:
    - {{name: http, protocol: TCP, port: 8080, targetPort: 8080}}
    - {{name: echo, protocol: UDP, port: 8080, targetPort: 8080}}
    - {{name: line, protocol: TCP, port: 9000, targetPort: line}}
"
    )
}

/// As [`service`], with a ClusterIP of each family.
pub(crate) fn dual_stack_service(namespace: &str, name: &str, cluster_ips: [&str; 2], app: &str) -> String {
    let [first, second] = cluster_ips;
    let one = format!("  clusterIP: {first}\n");
    let both =
        format!("{one}  clusterIPs: [\"{first}\", \"{second}\"]\n  ipFamilyPolicy: RequireDualStack\n");
    service(namespace, name, first, app).replace(&one, &both)
}

/// A ready pod with an address of each family, if it is on one of the rig's subnets; its namespace is what stands before the dash of its name.
pub(crate) fn pod(name: &str, address: &str) -> String {
    let (namespace, _) = name.split_once('-').unwrap();
    let second = ipv6_of(address).map_or(String::new(), |address| format!(", {{ip: \"{address}\"}}"));
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: enterprise}}}}
spec:
  containers:
    - name: enterprise
      image: enterprise
      ports:
        - {{name: http, containerPort: 8080}}
        - {{name: line, containerPort: 9000}}
status:
  phase: Running
  podIP: {address}
  podIPs: [{{ip: {address}}}{second}]
  conditions: [{{type: Ready, status: \"True\"}}]
"
    )
}

/// The IPv6 address of whoever has that IPv4 address, as `tools/rig` gives them.
pub(crate) fn ipv6_of(address: &str) -> Option<String> {
    let (network, host) = address.rsplit_once('.')?;
    let network = match network {
        "10.1.0" => "fd00:1",
        "10.244.0" => "fd00:244",
        _ => return None,
    };
    Some(format!("{network}::{host}"))
}

const SYSTEM: &str = "apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec:
  clusterIP: 10.96.0.1
  ports: [{name: https, protocol: TCP, port: 443, targetPort: 6443}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{name: https, protocol: TCP, port: 6443}]
endpoints: [{addresses: [10.244.0.100], conditions: {ready: true}}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports:
    - {name: dns, protocol: UDP, port: 53}
    - {name: dns-tcp, protocol: TCP, port: 53}
";
