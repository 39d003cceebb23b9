//! Network namespaces for tests: made with `ip`, gone when dropped.

use std::{
    fs::File,
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why tests with namespaces cannot run here, if so.
pub(crate) fn why_not() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let has_ip = Command::new("ip").arg("netns").output().is_ok_and(|out| out.status.success());
    if has_ip { None } else { Some("needs iproute2") }
}

/// Leaves the test, loudly, if it cannot run here.
#[macro_export]
macro_rules! skip_unless_namespaces {
    () => {
        if let Some(why) = $crate::namespace::why_not() {
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
}

/// A network namespace.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace whose name starts with `vr-`, this process and `role`.
    pub(crate) fn create(role: &str) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("vr-{}-{serial}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        // No unasked-for traffic: a test counts what comes in.
        namespace.sysctl("net.ipv6.conf.default.router_solicitations", "0");
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0");
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside, with arguments separated by blanks.
    pub(crate) fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments.split_whitespace());
        run("ip", &all);
    }

    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        self.run(&format!("sysctl -q -w {key}={value}"));
    }

    /// Runs a command inside, with arguments separated by blanks; it must succeed.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {text}{errors}");
        text
    }

    pub(crate) fn try_run(&self, command: &str) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(command.split_whitespace())
            .output()
            .unwrap()
    }

    /// Runs `work` inside, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    let file = File::open(self.path()).unwrap();
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Joins two namespaces by a veth pair of `queues` queues at each end, both up.
pub(crate) fn join(left: (&Namespace, &str), right: (&Namespace, &str), queues: u32, mtu: u32) {
    let (left, left_name) = left;
    let (right, right_name) = right;
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    left.ip(&format!(
        "link add {left_name} {queues} type veth peer {right_name} netns {} {queues}",
        right.name()
    ));
    for (namespace, name) in [(left, left_name), (right, right_name)] {
        namespace.ip(&format!("link set {name} mtu {mtu}"));
        namespace.ip(&format!("link set {name} up"));
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
}
