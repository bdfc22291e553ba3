//! The link daemon of a node, and its installation.

#[cfg(target_os = "linux")]
mod args;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("podmeta-link runs on Linux only");
    ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;
    use std::process::ExitCode;
    use std::sync::Arc;

    use anyhow::{Context as _, Result};
    use clap::Parser as _;
    use podmeta_link::checks::SharedChecks;
    use podmeta_link::counters::Counters;
    use podmeta_link::daemon;
    use podmeta_link::findings::{self, SharedFindings};
    use podmeta_link::guard::uplink::{self, UplinkGuard};
    use podmeta_link::host_pods::NodePods;
    use podmeta_link::netns::Netns;
    use podmeta_link::uninstall::{UninstallPaths, uninstall};
    use podmeta_link::{agent_ns, guard, host_pods, install, requirements, socket};
    use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
    use tracing_subscriber::EnvFilter;

    use crate::args::{LinkCli, LinkCommand, LinkUninstallArgs};

    pub(super) fn main() -> ExitCode {
        let cli = LinkCli::parse();
        let filter = match EnvFilter::try_new(&cli.log) {
            Ok(filter) => filter,
            Err(error) => {
                eprintln!("error: --log {:?} is not a valid filter: {error}", cli.log);
                return ExitCode::FAILURE;
            }
        };
        tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
        match run(cli.command) {
            Ok(code) => code,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "podmeta-link failed; exiting");
                ExitCode::FAILURE
            }
        }
    }

    fn run(command: LinkCommand) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match command {
                LinkCommand::Install(args) => {
                    let host = Netns::current().context("cannot open the node's network namespace")?;
                    // The log names what the node lacks before a step fails because of it.
                    let found = requirements::check(&requirements::read(&host));
                    findings::log_changes(&NodeFindings::new(), &found);
                    guard::ensure(&host).await?;
                    if args.guard.uplink_guard {
                        install_uplink_guard(&host, &args.guard.guard_pins).await;
                    } else {
                        uplink::detach_all(&host, &args.guard.guard_pins).await?;
                    }
                    if args.guard.redirect_host_network {
                        mount_pins(&args.guard.guard_pins);
                    } else {
                        host_pods::remove(&args.guard.guard_pins, &host).await?;
                    }
                    agent_ns::ensure(&args.namespace.agent_namespace).await?;
                    install::copy_plugin(&args.plugin, &args.plugins.cni_bin_dir)?;
                }
                LinkCommand::Run(args) => {
                    remove_ready(&args.ready.ready_file)?;
                    let ready_file = args.ready.ready_file.clone();
                    let (counters, findings) = (Arc::<Counters>::default(), Arc::<SharedFindings>::default());
                    let (checks, node_pods) = (Arc::<SharedChecks>::default(), Arc::<NodePods>::default());
                    let socket = args.socket_config(
                        Arc::clone(&counters),
                        Arc::clone(&findings),
                        Arc::clone(&checks),
                        Arc::clone(&node_pods),
                    )?;
                    tokio::spawn(socket::serve(socket::bind(&socket.path)?, socket));
                    daemon::run(args.config(node_pods), counters, findings, checks, move || write_ready(&ready_file))
                        .await?;
                }
                LinkCommand::Ready(args) if !args.ready_file.exists() => return Ok(ExitCode::FAILURE),
                LinkCommand::Ready(_) => {}
                LinkCommand::Uninstall(args) => args.run().await?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Mounts the filesystem of the uplink guard and attaches its programs. A failure does not keep pods from getting links: a
    /// kernel can lack the guard.
    async fn install_uplink_guard(host: &Netns, pins: &Path) {
        let ensure = async {
            uplink::mount(pins)?;
            UplinkGuard::new(pins.to_owned()).ensure(host).await
        };
        if let Err(error) = ensure.await {
            let found = NodeFindings::from([(NodeFindingKind::UplinkGuard, uplink::finding(&error))]);
            findings::log_changes(&NodeFindings::new(), &found);
        }
    }

    /// Mounts the filesystem of the programs for pods on the host network. A failure does not keep pods from getting links: the link
    /// daemon reports it as a finding.
    fn mount_pins(pins: &Path) {
        if let Err(error) = uplink::mount(pins) {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot mount the filesystem of the redirection, so pods on the host network are not redirected; the node needs a \
                 kernel with bpf(2): restart the pod of the link daemon once it has one, or turn the redirection off"
            );
        }
    }

    impl LinkUninstallArgs {
        async fn run(self) -> Result<()> {
            let paths = UninstallPaths {
                agent_namespace: self.node.namespace.agent_namespace,
                cni_config_dir: self.node.cni_config_dir,
                cni_bin_dir: self.plugins.cni_bin_dir,
                cni_cache_dir: self.cni_cache_dir,
                state_dir: self.state_dir,
            };
            uninstall(&paths).await?;
            tracing::info!("removed podmeta from the node");
            if let Some(file) = &self.stay {
                std::fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }

    /// Removes the ready file of an earlier process, and creates its directory.
    fn remove_ready(path: &Path) -> Result<()> {
        let directory = path.parent().context("the ready file has no directory")?;
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn write_ready(path: &Path) {
        match std::fs::write(path, "") {
            Ok(()) => tracing::info!("the link daemon is ready"),
            Err(error) => tracing::error!(
                %error,
                file = %path.display(),
                "cannot write the ready file; the daemon runs, but its pod stays not ready: delete the pod"
            ),
        }
    }
}
