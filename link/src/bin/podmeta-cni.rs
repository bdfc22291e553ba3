//! The CNI plugin. The container runtime starts it for each pod. It needs no other program of the node.

use std::io::Read as _;
use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use podmeta_link::agent_ns::PINNED_PATH;
    use podmeta_link::cni::error::{CniError, CniErrorCode};
    use podmeta_link::cni::{plugin, request::CniCommand};

    let io_error = |error: std::io::Error| CniError::new(CniErrorCode::Io, "cannot start podmeta-cni", error);
    let result = (|| {
        let mut config = String::new();
        std::io::stdin().read_to_string(&mut config).map_err(io_error)?;
        let command = CniCommand::parse(|name| std::env::var(name).ok(), &config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error)?;
        runtime.block_on(plugin::run(command, PINNED_PATH.as_ref()))
    })();
    match result {
        Ok(output) => {
            print_line(&output);
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_line(&serde_json::to_string(&error).unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. A runtime that has closed it does not read the result.
#[cfg(target_os = "linux")]
fn print_line(text: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout(), "{text}"));
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("podmeta-cni runs on Linux only");
    ExitCode::FAILURE
}
