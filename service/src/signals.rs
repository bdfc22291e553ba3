//! Requests to end: heard from the moment [`Signals::hear`] is called, so that none is missed by who waits later.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a program to end.
pub struct Signals {
    #[cfg(unix)]
    interrupt: Signal,
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    hangup: Signal,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The user, with Ctrl-C: every program of the terminal has heard it.
    Interrupt,
    /// Whoever started the program, or the terminal by going away: only this program has heard it.
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no such signal"))]
    Terminate,
}

#[cfg(unix)]
impl Signals {
    /// Hears all of them from now on.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn hear() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Interrupt,
            _ = self.terminate.recv() => Request::Terminate,
            _ = self.hangup.recv() => Request::Terminate,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Hears Ctrl-C.
    pub fn hear() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next one.
    pub async fn next(&mut self) -> Request {
        drop(tokio::signal::ctrl_c().await);
        Request::Interrupt
    }
}
