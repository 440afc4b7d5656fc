//! A Kubernetes cluster without nodes, in a network namespace of its own.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use malla_testkit::eventually;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const MALLA: &str = env!("CARGO_BIN_EXE_malla");

const SLOW: Duration = Duration::from_secs(120);
const TOKEN: &str = "the-administrators";
/// The ClusterIP of the control plane.
const CONTROL_IP: &str = "10.97.0.53";

/// Ended with the namespace when dropped.
pub(crate) struct Cluster {
    namespace: String,
    folder: TempDir,
    binaries: PathBuf,
    api_server: Option<Process>,
    others: Vec<Process>,
}

/// A process that is killed when dropped, and what it printed.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    pub(crate) fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let binaries = std::env::var_os("MALLA_KUBERNETES")
            .expect("MALLA_KUBERNETES names the folder that tests/kubernetes/build has filled");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("malla-k8s-{}-{count}", std::process::id());
        let mut cluster = Self {
            namespace,
            folder: tempfile::tempdir().unwrap(),
            binaries: binaries.into(),
            api_server: None,
            others: Vec::new(),
        };
        cluster.network();
        cluster.credentials();
        let etcd = cluster.spawn(
            "etcd",
            &cluster.binaries.join("etcd"),
            &[
                "--data-dir=data",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        );
        cluster.api_server = Some(cluster.start_api_server());
        cluster.wait_for_api_server();
        let controllers = cluster.spawn(
            "controllers",
            &cluster.binaries.join("kube-controller-manager"),
            &[
                "--kubeconfig=admin.conf",
                "--service-account-private-key-file=sa.key",
                "--root-ca-file=ca.crt",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
            ],
        );
        cluster.others = vec![etcd, controllers];
        cluster
    }

    /// What an administrator does: the manifest, and the rest of what only a cluster with nodes has.
    pub(crate) fn install(&self) {
        let manifest = Command::new(MALLA).arg("manifest").output().unwrap();
        assert!(manifest.status.success());
        // The Service's address is chosen, so that the API server finds the control plane there.
        let manifest = String::from_utf8(manifest.stdout).unwrap();
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: istiod, namespace: istio-system}}\n\
             spec: {{clusterIP: {CONTROL_IP}, ports: [{{name: https-webhook, port: 443, targetPort: 15017}}]}}\n"
        );
        let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n";
        for text in [format!("{namespace}{service}"), manifest] {
            let said = self.apply(&text);
            assert!(!said.contains("rror"), "{said}");
        }
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ]);
    }

    /// A control plane with the rights of its service account, listening on `address`.
    pub(crate) fn control(&self, pod: &str, address: &str) -> Process {
        let create = [
            "-n",
            "istio-system",
            "create",
            "token",
            "istiod",
            "--duration=1h",
        ];
        let token = self.kubectl(&create);
        let config = self.folder.path().join(format!("{pod}.conf"));
        fs::write(&config, self.kubeconfig(token.trim())).unwrap();
        let log = self.folder.path().join(format!("{pod}.log"));
        let child = self
            .command(Path::new(MALLA))
            .args(["control", "--pod", pod, "--bind", address])
            .env("KUBECONFIG", config)
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    /// Waits for the control plane at `address`, and has the API server call that one.
    pub(crate) fn ready(&self, address: &str) {
        let url = format!("http://{address}:8080/ready");
        eventually("the control plane is ready", SLOW, || {
            let out = self
                .command(Path::new("curl"))
                .args(["-sf", "--max-time", "5", &url])
                .output()
                .unwrap();
            let log =
                || fs::read_to_string(self.folder.path().join("istiod-0.log")).unwrap_or_default();
            out.status.success().then_some(()).ok_or_else(log)
        });
        self.redirect(address);
    }

    pub(crate) fn restart_api_server(&mut self) {
        self.api_server = None; // kill -9
        self.api_server = Some(self.start_api_server());
        self.wait_for_api_server();
    }

    /// What `kubectl` says, which has to succeed.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap()
    }

    /// What `kubectl` prints, or its error.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let out = self.kubectl_command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        match out.status.success() {
            true => Ok(text(out.stdout)),
            false => Err(text(out.stderr)),
        }
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", kind, name, "-o", "json"])).unwrap()
    }

    /// Applies YAML as users do; what is said, errors too.
    pub(crate) fn apply(&self, yaml: &str) -> String {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.with_input(&args, yaml)
    }

    pub(crate) fn replace(&self, object: &Value) {
        let mut object = object.clone();
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("resourceVersion");
        let said = self.with_input(&["replace", "-f", "-"], &object.to_string());
        assert!(said.contains("replaced"), "{said}");
    }

    fn with_input(&self, args: &[&str], input: &str) -> String {
        let mut child = self
            .kubectl_command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let out = child.wait_with_output().unwrap();
        String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap()
    }

    fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(Path::new("kubectl"));
        command.args(["--kubeconfig", "admin.conf"]).args(args);
        command
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path());
        command
    }

    fn spawn(&self, name: &str, program: &Path, args: &[&str]) -> Process {
        let log = self.folder.path().join(format!("{name}.log"));
        let child = self
            .command(program)
            .args(args)
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    fn start_api_server(&self) -> Process {
        self.spawn(
            "api",
            &self.binaries.join("kube-apiserver"),
            &[
                "--etcd-servers=http://127.0.0.1:2379",
                "--secure-port=6443",
                "--advertise-address=192.0.2.1",
                "--tls-cert-file=tls.crt",
                "--tls-private-key-file=tls.key",
                "--service-account-key-file=sa.key",
                "--service-account-signing-key-file=sa.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=RBAC",
                "--token-auth-file=tokens.csv",
                "--service-cluster-ip-range=10.97.0.0/16",
                "--anonymous-auth=false",
            ],
        )
    }

    fn wait_for_api_server(&self) {
        eventually("the API server is ready", SLOW, || {
            self.try_kubectl(&["get", "--raw", "/readyz"])
        });
    }

    /// An address of its own for everything that has one in a cluster, and a default route, which the API server asks for.
    fn network(&self) {
        let ns = &*self.namespace;
        run(&["ip", "netns", "add", ns]);
        for words in [
            "link set lo up",
            "link add veth0 type veth peer name veth1",
            "link set veth1 up",
            "link set veth0 up",
            "addr add 192.0.2.1/24 dev veth0",
            "route add default dev veth0",
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            run(&[&["ip", "-n", ns], &words[..]].concat());
        }
        for address in [CONTROL_IP, "10.200.0.1", "10.200.0.2"] {
            run(&["ip", "-n", ns, "addr", "add", address, "dev", "lo"]);
        }
        self.redirect("10.200.0.1");
    }

    /// The Service's address leads to the control plane at `control`.
    fn redirect(&self, control: &str) {
        let rules = format!(
            "table ip services\ndelete table ip services\ntable ip services {{\n chain out {{\n  type nat hook output priority -100\n  \
             ip daddr {CONTROL_IP} tcp dport 443 dnat to {control}:15017\n }}\n}}\n"
        );
        let mut child = self
            .command(Path::new("nft"))
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(rules.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }

    fn credentials(&self) {
        let folder = self.folder.path();
        let openssl = |args: &str| {
            let status = Command::new("openssl")
                .args(args.split(' '))
                .current_dir(folder)
                .stderr(Stdio::null())
                .status();
            assert!(status.unwrap().success());
        };
        openssl("genrsa -out sa.key 2048");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=ca"
        ));
        openssl(&format!(
            "req {key} -keyout tls.key -out tls.csr -subj /CN=kube-apiserver"
        ));
        fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
        openssl(
            "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt",
        );
        let tokens = format!("{TOKEN},admin,admin,system:masters\n");
        fs::write(folder.join("tokens.csv"), tokens).unwrap();
        fs::write(folder.join("admin.conf"), self.kubeconfig(TOKEN)).unwrap();
    }

    fn kubeconfig(&self, token: &str) -> String {
        let authority = self.folder.path().join("ca.crt");
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:6443', certificate-authority: {authority:?}}}}}], \
             users: [{{name: u, user: {{token: {token}}}}}]}}"
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.api_server = None;
        self.others.clear();
        run(&["ip", "netns", "del", &self.namespace]);
    }
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}");
}
