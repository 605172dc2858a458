//! The process as the kernel sees it, under the names every Prometheus client uses; what cannot be read is left out.

use std::fmt::Error;

use procfs::{
    boot_time_secs, page_size,
    process::{LimitValue, Process},
    ticks_per_second,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Reads what the kernel counts whenever somebody asks.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Ok(process) = Process::myself() else { return Ok(()) };
        let mut write = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        if let Ok(stat) = process.stat() {
            let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
            let used = ConstCounter::new(seconds(stat.utime + stat.stime));
            write("process_cpu_seconds", "Processor time used", &used)?;
            let resident = ConstGauge::new(stat.rss.saturating_mul(page_size()));
            write("process_resident_memory_bytes", "Memory in RAM", &resident)?;
            write("process_virtual_memory_bytes", "Memory addressed", &ConstGauge::new(stat.vsize))?;
            if let Ok(boot) = boot_time_secs() {
                let start = ConstGauge::new(boot as f64 + seconds(stat.starttime));
                write("process_start_time_seconds", "When the process began, in seconds since 1970", &start)?;
            }
        }
        if let Ok(open) = process.fd_count() {
            write("process_open_fds", "Descriptors open", &ConstGauge::new(open as u64))?;
        }
        if let Ok(LimitValue::Value(most)) = process.limits().map(|limits| limits.max_open_files.soft_limit) {
            write("process_max_fds", "Descriptors allowed", &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
        };
        let resident = value("process_resident_memory_bytes");
        assert!(resident > 100_000.0 && resident < value("process_virtual_memory_bytes"));
        assert!(value("process_open_fds") < value("process_max_fds"));
        assert!(value("process_cpu_seconds_total") < 1e6);
        let now = crate::clock::unix_seconds(crate::clock::now()) as f64;
        let start = value("process_start_time_seconds");
        assert!(start < now + 2.0 && start > now - 86_400.0, "{start} is not a while before {now}");
    }
}
