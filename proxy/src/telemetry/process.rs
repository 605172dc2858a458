//! The process as the kernel sees it, under the names every Prometheus client uses.

use std::fs;

use super::exposition::{Audience, Kind};

/// Clock ticks per second in `/proc`, fixed in Linux's user interface (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Writes memory, processor time and descriptors; what cannot be read is left out.
pub(super) fn write(out: &mut impl Audience) {
    if let Some(kib) = status_kib("VmRSS:") {
        let help = "Memory in RAM.";
        out.single("process_resident_memory_bytes", Kind::Gauge, help, kib * 1024);
    }
    if let Some(kib) = status_kib("VmSize:") {
        let help = "Memory addressed.";
        out.single("process_virtual_memory_bytes", Kind::Gauge, help, kib * 1024);
    }
    if let Some(seconds) = cpu_seconds() {
        out.single("process_cpu_seconds_total", Kind::Counter, "Processor time used.", seconds);
    }
    if let Some(seconds) = start_seconds() {
        let help = "When the process began, in seconds since 1970.";
        out.single("process_start_time_seconds", Kind::Gauge, help, seconds);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        out.single("process_open_fds", Kind::Gauge, "Descriptors open.", open.count() as u64);
    }
    if let Some(limit) = max_fds() {
        out.single("process_max_fds", Kind::Gauge, "Descriptors allowed.", limit);
    }
}

fn status_kib(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((ticks(14)? + ticks(15)?) / TICKS)
}

fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks(22)? / TICKS)
}

/// A field of `/proc/self/stat`, numbered as `proc_pid_stat(5)` numbers them: 14 and 15 are user and system time, 22 is the
/// start after boot.
fn ticks(field: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the process stands in brackets and may hold anything; the field after it is the third.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(field.checked_sub(3)?);
    fields.next()?.parse().ok()
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{super::exposition::Text, *};
    use crate::rt::clock;

    #[test]
    fn the_kernel_is_understood() {
        assert!(status_kib("VmRSS:").unwrap() > 100);
        assert!(cpu_seconds().unwrap() < 1e6);
        assert!(max_fds().unwrap() > 2);
        let (now, start) = (clock::unix_seconds(clock::now()), start_seconds().unwrap());
        assert!(start < now + 2.0 && start > now - 86_400.0, "{start} is not a while before {now}");
        let mut text = Text::default();
        write(&mut text);
        assert_eq!(text.finish().lines().filter(|line| !line.starts_with('#')).count(), 6);
    }
}
