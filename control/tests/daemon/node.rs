//! A node made of a network namespace, with a real `vrouter-control` in it, and a container
//! runtime's side of the CNI protocol.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use control_api::{connect::connect_control, node};
use serde_json::{Value, json};

/// How long anything may take: the machine stalls for seconds.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Why namespaces cannot be made here, if they cannot.
pub(crate) fn why_not() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let reason = REASON.get_or_init(|| {
        let probe = format!("vr-probe{}", std::process::id());
        match Command::new("ip").args(["netns", "add", &probe]).output() {
            Err(error) => Some(format!("there is no `ip`: {error}")),
            Ok(output) if !output.status.success() => {
                Some(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
            Ok(_) => {
                let _ = Command::new("ip").args(["netns", "del", &probe]).status();
                None
            }
        }
    });
    reason.clone()
}

/// Ends the test, loudly, if namespaces cannot be made here.
macro_rules! need_namespaces {
    () => {
        if let Some(reason) = $crate::node::why_not() {
            eprintln!("SKIPPED: network namespaces cannot be made: {reason}");
            return;
        }
    };
}
pub(crate) use need_namespaces;

/// Network namespaces that go with the test, however it ends.
#[derive(Default)]
struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}

/// A node: its namespace, its folders, its control process while it runs.
pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    name: &'static str,
    tag: String,
    daemon: Option<Child>,
    engine: Option<Child>,
    namespaces: Namespaces,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        self.kill_engine();
        if std::thread::panicking() {
            eprintln!("---- log of vrouter-control ----\n{}", self.log());
            let engine = fs::read_to_string(self.path("engine.log")).unwrap_or_default();
            eprintln!("---- log of vrouter ----\n{engine}");
        }
    }
}

impl Node {
    /// A node with an uplink and the pod ranges that are given, and no process yet.
    pub(crate) fn new(ranges: &str) -> Self {
        let mut node = Self::empty("node-a");
        let underlay = node.add_namespace("u");
        node.add_uplink(&underlay, 1);
        node.write_node("node-a", ranges, "192.0.2.1", "2001:db8::1");
        node
    }

    /// Two nodes, `node-a` and `node-b`, whose uplinks a bridge connects. They have no manifests.
    pub(crate) fn pair() -> [Self; 2] {
        let (mut first, second) = (Self::empty("node-a"), Self::empty("node-b"));
        let underlay = first.add_namespace("u");
        run("ip", &["-n", &underlay, "link", "add", "bridge0", "type", "bridge"]);
        first.add_uplink(&underlay, 1);
        second.add_uplink(&underlay, 2);
        for port in ["u1", "u2"] {
            run("ip", &["-n", &underlay, "link", "set", port, "master", "bridge0", "up"]);
        }
        run("ip", &["-n", &underlay, "link", "set", "bridge0", "up"]);
        [first, second]
    }

    fn empty(name: &'static str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("vr-c{:x}{count}", std::process::id());
        let folder = tempfile::Builder::new().prefix("vrc").tempdir().unwrap();
        let namespaces = Namespaces::default();
        let mut node = Self { folder, name, tag, daemon: None, engine: None, namespaces };
        let own = node.add_namespace("n");
        run("ip", &["-n", &own, "link", "set", "lo", "up"]);
        fs::create_dir(node.path("manifests")).unwrap();
        node.write_config("");
        node
    }

    /// An uplink whose other end is in another namespace, with the node's addresses.
    fn add_uplink(&self, underlay: &str, number: u8) {
        let (own, far) = (self.namespace(), format!("u{number}"));
        let pair = ["-n", &own, "link", "add", "uplink0", "type", "veth", "peer", "name", &far];
        run("ip", &[&pair[..], &["netns", underlay]].concat());
        run("ip", &["-n", &own, "link", "set", "uplink0", "up"]);
        let (v4, v6) = (format!("192.0.2.{number}/24"), format!("2001:db8::{number}/64"));
        run("ip", &["-n", &own, "address", "add", &v4, "dev", "uplink0"]);
        run("ip", &["-n", &own, "address", "add", &v6, "dev", "uplink0", "nodad"]);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn engine_socket(&self) -> PathBuf {
        self.path("engine.sock")
    }

    fn add_namespace(&mut self, suffix: &str) -> String {
        let name = format!("{}{suffix}", self.tag);
        run("ip", &["netns", "add", &name]);
        self.namespaces.0.push(name.clone());
        name
    }

    /// The node's own namespace.
    pub(crate) fn namespace(&self) -> String {
        format!("{}n", self.tag)
    }

    /// A container's namespace; returns its name.
    pub(crate) fn add_pod(&mut self, name: &str) -> String {
        self.add_namespace(name)
    }

    pub(crate) fn write_manifest(&self, name: &str, text: &str) {
        let temporary = self.path("manifests").join(format!(".{name}"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path("manifests").join(name)).unwrap();
    }

    pub(crate) fn write_node(&self, name: &str, ranges: &str, v4: &str, v6: &str) {
        let addresses = [v4, v6].map(|ip| format!("{{type: InternalIP, address: '{ip}'}}"));
        let text = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             spec: {{podCIDRs: [{ranges}]}}\nstatus: {{addresses: [{}]}}\n",
            addresses.join(", ")
        );
        self.write_manifest(&format!("{name}.yaml"), &text);
    }

    /// As [`Self::write_bare_config`], with pods behind veth pairs unless `rest` says otherwise:
    /// these have an end in the node's namespace, which tests can look at.
    pub(crate) fn write_config(&self, rest: &str) {
        let port_type =
            if rest.contains("pod_port_type") { "" } else { "pod_port_type = 'veth'\n" };
        self.write_bare_config(&format!("{port_type}{rest}"));
    }

    /// A configuration with what the node needs, and `rest` in `[control]`.
    pub(crate) fn write_bare_config(&self, rest: &str) {
        let path = |name| self.path(name).display().to_string();
        let text = format!(
            "[engine]\nsocket = '{engine}'\nmetrics = ''\n\
             [control]\nnode_name = '{name}'\nuplink = 'uplink0'\nmanifests = '{manifests}'\n\
             socket = '{control}'\nengine_socket = '{engine}'\nstate_dir = '{state}'\n\
             metrics = ''\n{rest}\n",
            name = self.name,
            engine = path("engine.sock"),
            manifests = path("manifests"),
            control = path("control.sock"),
            state = path("state")
        );
        fs::write(self.path("vrouter.toml"), text).unwrap();
    }

    fn daemon_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace()))
            .arg(env!("CARGO_BIN_EXE_vrouter-control"))
            .arg("--config")
            .arg(self.path("vrouter.toml"))
            .args(arguments)
            .env("RUST_LOG", "debug,h2=info,hyper=info,tower=info,netlink_proto=info");
        command
    }

    /// Runs control to its end.
    pub(crate) fn run_to_end(&self, arguments: &[&str]) -> Output {
        self.daemon_command(arguments).output().unwrap()
    }

    /// Starts control and waits until it serves.
    pub(crate) async fn start(&mut self) {
        self.spawn(None);
        self.until_serving().await;
    }

    /// Starts control so that it aborts at a place, if it gets there.
    pub(crate) fn spawn(&mut self, abort_at: Option<&str>) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.daemon_command(&[]);
        if let Some(place) = abort_at {
            command.env(control::fault::VARIABLE, place);
        }
        self.daemon = Some(command.stderr(log).stdout(Stdio::null()).spawn().unwrap());
    }

    pub(crate) async fn until_serving(&mut self) {
        let started = Instant::now();
        while connect_control(&self.path("control.sock")).await.is_err() {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "control ended: {ended:?}\n{}", self.log());
            assert!(started.elapsed() < LIMIT, "control does not serve\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for control to end by itself.
    pub(crate) fn until_ended(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let started = Instant::now();
        while daemon.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < LIMIT, "control does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the real engine, in place of the fixture.
    pub(crate) fn start_engine(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("engine.log")).unwrap();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace()))
            .arg(program("vrouter"))
            .arg("--config")
            .arg(self.path("vrouter.toml"));
        self.engine = Some(command.stderr(log).stdout(Stdio::null()).spawn().unwrap());
    }

    /// Kills the engine as a crash would.
    pub(crate) fn kill_engine(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            let _ = engine.kill();
            let _ = engine.wait();
        }
    }

    /// Waits until everything that is desired is in force.
    pub(crate) async fn until_in_step(&self) {
        self.until_status("in step with the engine", |status| {
            status.engine_connected && status.desired_generation == status.acknowledged_generation
        })
        .await;
    }

    /// Kills control as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) async fn status(&self) -> node::Status {
        let mut control = connect_control(&self.path("control.sock")).await.unwrap();
        control.get_status(node::GetStatusRequest {}).await.unwrap().into_inner()
    }

    /// Waits until the status fulfils a condition.
    pub(crate) async fn until_status(
        &self,
        what: &str,
        condition: impl Fn(&node::Status) -> bool,
    ) -> node::Status {
        let started = Instant::now();
        loop {
            let status = self.status().await;
            if condition(&status) {
                return status;
            }
            assert!(started.elapsed() < LIMIT, "{what}: {status:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the attachments fulfil a condition.
    pub(crate) async fn until_attachments(
        &self,
        what: &str,
        condition: impl Fn(&[node::Attachment]) -> bool,
    ) {
        let started = Instant::now();
        loop {
            let attachments = self.attachments().await;
            if condition(&attachments) {
                return;
            }
            assert!(started.elapsed() < LIMIT, "{what}: {attachments:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn attachments(&self) -> Vec<node::Attachment> {
        let mut control = connect_control(&self.path("control.sock")).await.unwrap();
        let request = node::ListAttachmentsRequest {};
        let mut stream = control.list_attachments(request).await.unwrap().into_inner();
        let mut attachments = Vec::new();
        while let Some(attachment) = stream.message().await.unwrap() {
            attachments.push(attachment);
        }
        attachments
    }

    /// Names of the interfaces that attachments have on the node's side.
    pub(crate) fn host_interfaces(&self) -> Vec<String> {
        let links = ip_json(&self.namespace(), &["link", "show"]);
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap());
        names
            .filter(|name| name.starts_with("vr") && !name.starts_with("vrhost"))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until the kernel has taken away the interfaces of namespaces that ended: it does so some
    /// time later.
    pub(crate) async fn until_interfaces_are_gone(&self) {
        let started = Instant::now();
        while !self.host_interfaces().is_empty() {
            assert!(started.elapsed() < LIMIT, "{:?} are still there", self.host_interfaces());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A verb about the container `pod`, as a runtime asks for it.
    pub(crate) fn verb(&self, verb: &str, pod: &str) -> Verb<'_> {
        Verb {
            node: self,
            command: verb.to_owned(),
            container: format!("id-{pod}"),
            ifname: "eth0".to_owned(),
            netns: format!("/run/netns/{}{pod}", self.tag),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={pod}"),
            path: "/opt/cni/bin".to_owned(),
            config: json!({
                "cniVersion": "1.1.0",
                "name": "vrouter",
                "type": "vrouter-cni",
                "socket": self.path("control.sock"),
            }),
        }
    }
}

/// A call of the plugin, to be changed before it is made.
pub(crate) struct Verb<'a> {
    node: &'a Node,
    command: String,
    container: String,
    ifname: String,
    netns: String,
    args: String,
    path: String,
    pub(crate) config: Value,
}

/// What the plugin said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) is_success: bool,
    pub(crate) printed: Value,
}

impl Verb<'_> {
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub(crate) fn container(mut self, id: &str) -> Self {
        id.clone_into(&mut self.container);
        self
    }

    pub(crate) fn netns(mut self, path: &str) -> Self {
        path.clone_into(&mut self.netns);
        self
    }

    pub(crate) fn args(mut self, args: &str) -> Self {
        args.clone_into(&mut self.args);
        self
    }

    pub(crate) fn ifname(mut self, ifname: &str) -> Self {
        ifname.clone_into(&mut self.ifname);
        self
    }

    pub(crate) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Starts the plugin in the node's namespace. It is killed when it is dropped.
    pub(crate) async fn spawn(&self) -> tokio::process::Child {
        let mut command = tokio::process::Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.node.namespace()))
            .arg(program("vrouter-cni"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("CNI_COMMAND", &self.command)
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if !matches!(&*self.command, "STATUS" | "GC" | "VERSION") {
            command
                .env("CNI_CONTAINERID", &self.container)
                .env("CNI_NETNS", &self.netns)
                .env("CNI_IFNAME", &self.ifname)
                .env("CNI_ARGS", &self.args);
        }
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let config = self.config.to_string();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, config.as_bytes()).await.unwrap();
        drop(stdin);
        child
    }

    /// Runs the plugin.
    pub(crate) async fn call(self) -> Answer {
        let output = self.spawn().await.wait_with_output().await.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let printed = if printed.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
        };
        Answer { is_success: output.status.success(), printed }
    }

    /// Runs the plugin, which must succeed.
    pub(crate) async fn succeed(self) -> Value {
        let what = format!("{} {}", self.command, self.container);
        let log = self.node.path("log");
        let answer = self.call().await;
        let log = || fs::read_to_string(&log).unwrap_or_default();
        assert!(answer.is_success, "{what}: {:#}\n{}", answer.printed, log());
        answer.printed
    }

    /// Runs the plugin, which must fail with a code.
    pub(crate) async fn fail(self, code: u32) -> String {
        let what = format!("{} {}", self.command, self.container);
        let version = self.config["cniVersion"].clone();
        let answer = self.call().await;
        assert!(!answer.is_success, "{what}: {:#}", answer.printed);
        assert_eq!(answer.printed["code"], code, "{what}: {:#}", answer.printed);
        assert_eq!(answer.printed["cniVersion"], version);
        answer.printed["msg"].as_str().unwrap().to_owned()
    }
}

/// A program of another package. Built here, since cargo builds only this package's, unless
/// `VROUTER_BIN` says where they are.
fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("VROUTER_BIN") {
            return folder.into();
        }
        let own = Path::new(env!("CARGO_BIN_EXE_vrouter-control")).parent().unwrap();
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "control", "-p", "cni", "-p", "vrouter", "--bins"])
            .args((!cfg!(debug_assertions)).then_some("--release"))
            .arg("--target-dir")
            .arg(own.parent().unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "cannot build the other programs");
        own.to_owned()
    });
    folder.join(name)
}

pub(crate) fn delete_namespace(name: &str) {
    run("ip", &["netns", "del", name]);
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip -json` says in a namespace.
pub(crate) fn ip_json(namespace: &str, arguments: &[&str]) -> Value {
    let text = run("ip", &[&["-n", namespace, "-json"], arguments].concat());
    if text.trim().is_empty() { json!([]) } else { serde_json::from_str(&text).unwrap() }
}
