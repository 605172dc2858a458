//! The process as the kernel sees it, under the names every Prometheus client uses.

use std::fs;

use super::exposition::Text;

/// Clock ticks per second in `/proc`, fixed in Linux's user interface (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Writes memory, processor time and descriptors; what cannot be read is left out.
pub(super) fn write(text: &mut Text) {
    if let Some(kib) = status_kib("VmRSS:") {
        let help = "Memory in RAM.";
        text.single("process_resident_memory_bytes", "gauge", help, kib * 1024);
    }
    if let Some(seconds) = cpu_seconds() {
        text.single("process_cpu_seconds_total", "counter", "Processor time used.", seconds);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        text.single("process_open_fds", "gauge", "Descriptors open.", open.count());
    }
    if let Some(limit) = max_fds() {
        text.single("process_max_fds", "gauge", "Descriptors allowed.", limit);
    }
}

fn status_kib(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the process stands in brackets and may hold anything; user and system time are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        assert!(status_kib("VmRSS:").unwrap() > 100);
        assert!(cpu_seconds().unwrap() < 1e6);
        assert!(max_fds().unwrap() > 2);
        let mut text = Text::default();
        write(&mut text);
        assert_eq!(text.finish().lines().filter(|line| !line.starts_with('#')).count(), 4);
    }
}
