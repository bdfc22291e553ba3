//! The log. Separate threads write the lines: a reader that stops reading does not block other threads. Queues are bounded: a
//! line is dropped and counted if its queue is full.

use std::fmt;
use std::io::Write;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::MakeWriterExt as _;

/// Target of the access log. Its lines at level `info` are the audit log: issued tokens and served credentials.
pub const ACCESS_TARGET: &str = "access";

/// Capacity of the queue of audit lines. They have a queue of their own, so that other lines never displace them. A line
/// has about 300 bytes.
const AUDIT_LINES: usize = 16_384;

/// Capacity of the queue of all other lines.
const OTHER_LINES: usize = 4_096;

/// Writes the queued lines when it is dropped, for up to a second per queue.
#[derive(Debug)]
pub struct LogGuard {
    dropped: DroppedLines,
    _workers: [WorkerGuard; 2],
}

/// The number of dropped lines of both queues, as a metric.
#[derive(Clone, Debug)]
pub struct DroppedLines {
    audit: ErrorCounter,
    other: ErrorCounter,
}

/// Installs a log of JSON lines on standard output.
#[must_use]
pub fn init(filter: EnvFilter) -> LogGuard {
    let (writer, guard) = queued_writer(std::io::stdout);
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(writer).init();
    guard
}

/// Returns a writer with a queue for audit lines and one for all others. Each queue has a thread that writes to its own
/// handle of `output`.
pub fn queued_writer<W: Write + Send + 'static>(
    output: impl Fn() -> W,
) -> (impl for<'w> MakeWriter<'w> + Send + Sync + 'static, LogGuard) {
    let (audit, audit_worker) = start_queue(output(), AUDIT_LINES);
    let (other, other_worker) = start_queue(output(), OTHER_LINES);
    let dropped = DroppedLines { audit: audit.error_counter(), other: other.error_counter() };
    (audit.with_filter(is_audit).or_else(other), LogGuard { dropped, _workers: [audit_worker, other_worker] })
}

fn start_queue(output: impl Write + Send + 'static, lines: usize) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines).thread_name("log").finish(output)
}

fn is_audit(metadata: &Metadata<'_>) -> bool {
    metadata.target() == ACCESS_TARGET && *metadata.level() == Level::INFO
}

impl LogGuard {
    /// Returns the metric `log_lines_dropped`.
    #[must_use]
    pub fn dropped_lines(&self) -> DroppedLines {
        self.dropped.clone()
    }
}

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Log lines dropped because their queue was full";
        let mut metric = encoder.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?;
        for (log, counter) in [("audit", &self.audit), ("other", &self.other)] {
            let count = ConstCounter::new(u64::try_from(counter.dropped_lines()).unwrap_or(u64::MAX));
            count.encode(metric.encode_family(&[("log", log)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    use super::*;

    /// Blocks each write until the test has closed the channel. Then sends the lines.
    struct BlockedOutput(Arc<Mutex<Receiver<()>>>, Sender<String>);

    impl Write for BlockedOutput {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _closed = self.0.lock().unwrap().recv();
            drop(self.1.send(String::from_utf8_lossy(line).into_owned()));
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn unread_log_drops_other_lines_and_counts_them_while_audit_lines_are_kept() {
        let ((release_tx, release_rx), (lines_tx, lines_rx)) = (channel(), channel());
        let blocked = Arc::new(Mutex::new(release_rx));
        let (writer, guard) = queued_writer(|| BlockedOutput(Arc::clone(&blocked), lines_tx.clone()));
        let subscriber = tracing_subscriber::fmt().json().with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..OTHER_LINES + 100 {
                tracing::warn!(target: ACCESS_TARGET, "rejected");
            }
            for _ in 0..100 {
                tracing::info!(target: ACCESS_TARGET, "served");
            }
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(guard.dropped_lines()));
        let mut metrics = String::new();
        prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
        assert!(metrics.contains("log_lines_dropped_total{log=\"audit\"} 0\n"), "{metrics}");
        // The writing thread may have taken some lines from the queue.
        assert!((90..=100).contains(&guard.dropped.other.dropped_lines()), "{metrics}");
        drop(release_tx);
        let lines = std::iter::from_fn(|| lines_rx.recv_timeout(Duration::from_secs(20)).ok());
        assert_eq!(lines.filter(|line| line.contains("served")).take(100).count(), 100);
    }
}
