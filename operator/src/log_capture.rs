//! The log of one test.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::EnvFilter;

/// Records the log of the current thread until it is dropped.
pub(crate) struct LogCapture {
    buffer: LogBuffer,
    _subscriber: DefaultGuard,
    _second: tracing::Dispatch,
}

/// A writer into shared memory.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl LogCapture {
    /// Starts to record, with the directives of `--log`.
    pub(crate) fn start(directives: &str) -> Self {
        let (buffer, filter) = (LogBuffer::default(), EnvFilter::new(directives));
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        // While a process has one subscriber, the first thread that runs a log statement enables or disables it for all threads. A
        // thread of another test has no subscriber, and would disable it. With two subscribers, tracing decides at each call.
        let second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        Self { buffer, _subscriber: tracing::subscriber::set_default(subscriber), _second: second }
    }

    /// Returns the lines so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.buffer.0.lock().unwrap().clone()).unwrap()
    }
}
