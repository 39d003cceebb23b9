//! What disturbed a thread while it was measured: others on its CPU, the hypervisor, limits.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Waiting for its CPU, in thousandths of the time, from which on a thread shared it.
const SHARED_PER_MILLE: u64 = 5;

/// Watches a thread of this process, on one CPU.
#[derive(Debug)]
pub struct Watch {
    thread: i32,
    cpu: usize,
    before: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    preemptions: u64,
    ran_nanoseconds: u64,
    waited_nanoseconds: u64,
    stolen_ticks: u64,
    throttled: u64,
}

/// What happened to a thread.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Disturbance {
    /// How often it was taken off its CPU.
    pub preemptions: u64,
    /// It had to wait for its CPU for more than a few thousandths of the time.
    pub is_shared: bool,
    /// The hypervisor ran something else on the CPU.
    pub is_stolen: bool,
    /// The CPU was too hot, or the control group had used up its time.
    pub is_throttled: bool,
}

impl Watch {
    /// Begins to watch.
    #[must_use]
    pub fn begin(thread: i32, cpu: usize) -> Self {
        Self { thread, cpu, before: Counts::now(thread, cpu) }
    }

    /// What happened since then.
    #[must_use]
    pub fn end(&self) -> Disturbance {
        Disturbance::between(&self.before, &Counts::now(self.thread, self.cpu))
    }
}

impl Disturbance {
    /// What happened in this time, and in another.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            preemptions: self.preemptions + other.preemptions,
            is_shared: self.is_shared || other.is_shared,
            is_stolen: self.is_stolen || other.is_stolen,
            is_throttled: self.is_throttled || other.is_throttled,
        }
    }

    fn between(before: &Counts, after: &Counts) -> Self {
        let since = |read: fn(&Counts) -> u64| read(after).saturating_sub(read(before));
        let (ran, waited) = (since(|it| it.ran_nanoseconds), since(|it| it.waited_nanoseconds));
        Self {
            preemptions: since(|it| it.preemptions),
            is_shared: waited.saturating_mul(1000) > ran.saturating_mul(SHARED_PER_MILLE),
            is_stolen: since(|it| it.stolen_ticks) > 0,
            is_throttled: since(|it| it.throttled) > 0,
        }
    }
}

impl Counts {
    fn now(thread: i32, cpu: usize) -> Self {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).unwrap_or_default()
        };
        let status = read("status");
        let preemptions =
            status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
        let schedstat = read("schedstat");
        let mut schedstat = schedstat.split_whitespace().map(|word| word.parse().unwrap_or(0));
        Self {
            preemptions: preemptions.and_then(|count| count.trim().parse().ok()).unwrap_or(0),
            ran_nanoseconds: schedstat.next().unwrap_or(0),
            waited_nanoseconds: schedstat.next().unwrap_or(0),
            throttled: group_throttled() + heat_throttled(cpu),
            stolen_ticks: stolen_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpu),
        }
    }
}

/// How often this process's control groups, and those they are in, had used up their time; 0 where
/// none has a limit.
fn group_throttled() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let folders = cpu_groups(&groups);
    let stats =
        folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cpu.stat")).ok());
    stats.map(|stat| times_throttled(&stat)).sum()
}

/// The folders of the control groups that divide CPU time, of either version of the kernel's
/// interface (cgroups(7)), from the process's own up to the root.
fn cpu_groups(groups: &str) -> Vec<PathBuf> {
    let root_of = |controllers: &str| match controllers {
        "" => Some("/sys/fs/cgroup"),
        _ if controllers.split(',').any(|it| it == "cpu") => Some("/sys/fs/cgroup/cpu"),
        _ => None,
    };
    let group = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((Path::new(root_of(parts.next()?)?), parts.next()?))
    });
    group.map_or_else(Vec::new, |(root, group)| {
        let group = group.trim_matches('/');
        let own = if group.is_empty() { root.to_path_buf() } else { root.join(group) };
        own.ancestors()
            .take_while(|folder| folder.starts_with(root))
            .map(Path::to_path_buf)
            .collect()
    })
}

fn times_throttled(stat: &str) -> u64 {
    let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// How often a CPU was too hot; 0 where the kernel does not say.
fn heat_throttled(cpu: usize) -> u64 {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count");
    fs::read_to_string(path).ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// The eighth number of a CPU's line (proc(5)).
fn stolen_ticks(stat: &str, cpu: usize) -> u64 {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name));
    let field = line.and_then(|line| line.split_whitespace().nth(8));
    field.and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_read_from_the_cpus_own_line() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 88 9 10\n";
        assert_eq!(stolen_ticks(stat, 1), 88);
        assert_eq!(stolen_ticks(stat, 11), 0);
    }

    #[test]
    fn limits_of_outer_groups_count_in_both_versions_of_the_interface() {
        let paths = |groups| {
            let folders = cpu_groups(groups);
            folders.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(paths("0::/\n"), "/sys/fs/cgroup");
        assert_eq!(
            paths("0::/system.slice/a.service\n"),
            "/sys/fs/cgroup/system.slice/a.service /sys/fs/cgroup/system.slice /sys/fs/cgroup"
        );
        let first = "5:cpuset:/x\n4:cpu,cpuacct:/kubepods/pod1\n1:name=systemd:/y\n";
        assert_eq!(
            paths(first),
            "/sys/fs/cgroup/cpu/kubepods/pod1 /sys/fs/cgroup/cpu/kubepods /sys/fs/cgroup/cpu"
        );
        assert_eq!(paths(""), "");
        assert_eq!(times_throttled("nr_periods 9\nnr_throttled 3\nthrottled_time 17\n"), 3);
        assert_eq!(times_throttled(""), 0);
    }

    #[test]
    fn a_thread_that_waited_for_its_cpu_shared_it() {
        let before = Counts::default();
        let after = |waited_nanoseconds| Counts {
            preemptions: 3,
            ran_nanoseconds: 1_000_000,
            waited_nanoseconds,
            ..before
        };
        let calm = Disturbance { preemptions: 3, ..Disturbance::default() };
        assert_eq!(Disturbance::between(&before, &after(5_000)), calm);
        let shared = Disturbance { is_shared: true, ..calm };
        assert_eq!(Disturbance::between(&before, &after(5_001)), shared);
    }
}
