//! The policy directory: YAML files a control plane watches, edited as users and tools do.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The port Services listen on, and the one their pods serve.
pub const SERVICE_PORT: u16 = 80;
/// The port the apps of pods serve.
pub const TARGET_PORT: u16 = 3000;

/// A directory of policy files, removed when dropped.
#[derive(Debug)]
pub struct Policy(TempDir);

impl Policy {
    /// A new, empty directory.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pillion-policy-").tempdir();
        Ok(Self(dir.context("cannot make a directory for the policy")?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of one file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.yaml"))
    }

    /// Writes a file as a careful editor does: beside it, then renamed over it.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        let draft = self.path().join(format!(".{name}.yaml.draft"));
        fs::write(&draft, yaml).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, self.file(name)).with_context(|| format!("cannot save {name}"))
    }

    /// Writes a file in place, as a careless editor does.
    pub fn overwrite(&self, name: &str, yaml: &str) -> Result<()> {
        fs::write(self.file(name), yaml).with_context(|| format!("cannot write {name}"))
    }

    /// Removes a file.
    pub fn delete(&self, name: &str) -> Result<()> {
        fs::remove_file(self.file(name)).with_context(|| format!("cannot remove {name}"))
    }

    /// A Service of one HTTP port that selects the pods labelled `app: NAME`.
    pub fn service(&self, name: &str) -> Result<()> {
        self.apply(&format!("service-{name}"), &service(name))
    }

    /// A Service whose port has this name, which tells the protocol its apps speak.
    pub fn service_speaking(&self, name: &str, port_name: &str) -> Result<()> {
        let yaml = service(name).replace("name: http\n", &format!("name: {port_name}\n"));
        self.apply(&format!("service-{name}"), &yaml)
    }

    /// A pod of an app.
    pub fn pod(&self, name: &str, app: &str, version: &str, ip: IpAddr) -> Result<()> {
        self.apply(&format!("pod-{name}"), &pod(name, app, version, ip))
    }

    /// A pod of an app that has a sidecar with an identity.
    pub fn meshed_pod(&self, name: &str, app: &str, version: &str, ip: IpAddr) -> Result<()> {
        let marked = "  labels:\n    security.istio.io/tlsMode: istio\n";
        let yaml = pod(name, app, version, ip).replacen("  labels:\n", marked, 1);
        self.apply(&format!("pod-{name}"), &yaml)
    }

    /// A PeerAuthentication of the whole namespace.
    pub fn peer_authentication(&self, mode: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\nspec:\n  mtls:\n    \
             mode: {mode}\n"
        );
        self.apply("peer-authentication", &yaml)
    }

    /// An AuthorizationPolicy that denies everything to whoever runs as a service account of the namespace `default`.
    pub fn deny(&self, name: &str, account: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\nspec:\n  \
             action: DENY\n  rules:\n  - from:\n    - source:\n        principals: \
             [cluster.local/ns/default/sa/{account}]\n"
        );
        self.apply(&format!("authorization-{name}"), &yaml)
    }

    /// Removes a pod.
    pub fn remove_pod(&self, name: &str) -> Result<()> {
        self.delete(&format!("pod-{name}"))
    }

    /// A VirtualService for `host` with this list of `http` rules, given unindented.
    pub fn routes(&self, host: &str, rules: &str) -> Result<()> {
        let rules = indent(rules, 2);
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {host}\nspec:\n  \
             hosts:\n  - {host}\n  http:\n{rules}"
        );
        self.apply(&format!("routes-{host}"), &yaml)
    }

    /// A DestinationRule for `host` with this rest of the `spec`, given unindented.
    pub fn destination(&self, host: &str, spec: &str) -> Result<()> {
        let spec = indent(spec, 2);
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: {host}\nspec:\n  \
             host: {host}\n{spec}"
        );
        self.apply(&format!("destination-{host}"), &yaml)
    }

    /// A ResiliencePolicy for the Service `service` with this rest of the `spec`, given unindented.
    pub fn resilience(&self, service: &str, spec: &str) -> Result<()> {
        let spec = indent(spec, 2);
        let yaml = format!(
            "apiVersion: policy.pillion.dev/v1alpha1\nkind: ResiliencePolicy\nmetadata:\n  name: {service}\n  \
             namespace: default\nspec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n{spec}"
        );
        self.apply(&format!("resilience-{service}"), &yaml)
    }
}

/// The subsets `v1` and `v2` by the label `version`, for [`Policy::destination`].
pub const SUBSETS: &str = "\
subsets:
- name: v1
  labels: {version: v1}
- name: v2
  labels: {version: v2}
";

/// The YAML of a Service of one HTTP port.
pub fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  selector:\n    app: {name}\n  ports:\n  \
         - name: http\n    port: {SERVICE_PORT}\n    targetPort: {TARGET_PORT}\n"
    )
}

/// The YAML of a pod.
pub fn pod(name: &str, app: &str, version: &str, ip: IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels:\n    app: {app}\n    version: {version}\n\
         spec:\n  serviceAccountName: {app}\n  containers:\n  - name: app\n    ports:\n    - containerPort: \
         {TARGET_PORT}\nstatus:\n  phase: Running\n  podIP: {ip}\n  conditions:\n  - type: Ready\n    status: \
         \"True\"\n"
    )
}

fn indent(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines().map(|line| format!("{pad}{line}\n")).collect()
}
