//! Signals that stop the process. On Unix, no signal is missed after [`Signals::listen`].

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives signals.
pub struct Signals {
    #[cfg(unix)]
    interrupt: Signal,
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    hangup: Signal,
}

/// A signal that stops the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C. The terminal sends it to all its foreground processes.
    Interrupt,
    /// SIGTERM or SIGHUP. Child processes may not receive it: forward it to them.
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no such signal"))]
    Terminate,
}

#[cfg(unix)]
impl Signals {
    /// Starts to receive signals.
    ///
    /// # Errors
    /// If a signal handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.hangup.recv() => StopSignal::Terminate,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Creates the receiver. Ctrl-C is received only while `next` is awaited.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> StopSignal {
        drop(tokio::signal::ctrl_c().await);
        StopSignal::Interrupt
    }
}
