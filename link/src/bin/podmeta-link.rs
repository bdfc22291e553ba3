//! The link daemon of a node, and its installation.

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
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;
    use std::sync::Arc;

    use anyhow::{Context as _, Result};
    use clap::{Args, Parser, Subcommand, ValueEnum};
    use podmeta_link::checks::SharedChecks;
    use podmeta_link::cni::conflist::LinkSettings;
    use podmeta_link::cni::request::OnFailure;
    use podmeta_link::counters::Counters;
    use podmeta_link::cri::AgentPods;
    use podmeta_link::daemon::{self, DaemonConfig};
    use podmeta_link::findings::{self, SharedFindings};
    use podmeta_link::guard::uplink::{self, UplinkGuard};
    use podmeta_link::netns::Netns;
    use podmeta_link::range::LinkRange;
    use podmeta_link::socket::LinkSocketConfig;
    use podmeta_link::uninstall::{UninstallPaths, uninstall};
    use podmeta_link::{agent_ns, guard, install, protocol, requirements, socket};
    use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
    use tracing_subscriber::EnvFilter;

    /// Makes the links of a node's pods to the node agent, and the guards of the node.
    #[derive(Parser)]
    #[command(version)]
    struct LinkCli {
        #[command(subcommand)]
        command: LinkCommand,
        /// Log filter, such as info or info,podmeta_link=debug.
        #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
        log: String,
    }

    #[derive(Subcommand)]
    enum LinkCommand {
        /// Assert the guards, pin the agent namespace and copy the CNI plugin. Needs a privileged container.
        Install(InstallArgs),
        /// Check guards, CNI configuration and links, and repair them, until stopped.
        Run(RunArgs),
        /// Exit with 0 if `run` has completed its first pass.
        Ready(ReadyArgs),
        /// Wait until the link daemon has ended, and remove CNI configuration, links, agent namespace, guards and state from
        /// the node. Remove the plugin too, unless pods that were started with it still exist: runtimes start it again when
        /// such a pod ends.
        Uninstall(LinkUninstallArgs),
    }

    #[derive(Args)]
    struct NamespaceArgs {
        /// Path of the pinned agent namespace.
        #[arg(long, default_value = agent_ns::PINNED_PATH, value_name = "PATH")]
        agent_namespace: PathBuf,
    }

    #[derive(Args)]
    struct GuardArgs {
        /// Drop the traffic of pods to the node's metadata service on uplinks too, with an eBPF program. Without this flag,
        /// `install` detaches the programs.
        #[arg(long)]
        uplink_guard: bool,
        /// Path of the bpf filesystem with the programs of the uplink guard.
        #[arg(long, default_value = uplink::PINS_PATH, value_name = "PATH")]
        guard_pins: PathBuf,
    }

    #[derive(Args)]
    struct NodeArgs {
        #[command(flatten)]
        namespace: NamespaceArgs,
        /// Directory of CNI configurations.
        #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
        cni_config_dir: PathBuf,
    }

    #[derive(Args)]
    struct PluginDirArgs {
        /// Directory of CNI plugins.
        #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
        cni_bin_dir: PathBuf,
    }

    #[derive(Args)]
    struct InstallArgs {
        #[command(flatten)]
        namespace: NamespaceArgs,
        #[command(flatten)]
        guard: GuardArgs,
        #[command(flatten)]
        plugins: PluginDirArgs,
        /// The program podmeta-cni.
        #[arg(long, default_value = "/usr/local/bin/podmeta-cni", value_name = "PATH")]
        plugin: PathBuf,
    }

    #[derive(Args)]
    struct RunArgs {
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        guard: GuardArgs,
        #[command(flatten)]
        ready: ReadyArgs,
        /// Socket of the container runtime.
        #[arg(long, default_value = "/run/containerd/containerd.sock", value_name = "PATH")]
        runtime_socket: PathBuf,
        /// Directory where cgroup v2 is mounted, or its parent if the node also has v1.
        #[arg(long, default_value = "/sys/fs/cgroup", value_name = "DIR")]
        cgroup_root: PathBuf,
        /// Namespaces whose pods on the host network may reach the node's own metadata service, separated by commas.
        #[arg(long, default_value = "kube-system", value_delimiter = ',', value_name = "NAMES")]
        node_metadata_namespaces: Vec<String>,
        /// Range of the links' addresses.
        #[arg(long, default_value_t = LinkRange::default(), value_name = "PREFIX")]
        link_range: LinkRange,
        /// Effect on a pod whose link cannot be made or is not active within 10 s.
        #[arg(long, default_value = "fail", value_name = "ACTION")]
        on_failure: OnFailureArg,
        /// Socket for the node agent.
        #[arg(long, default_value = protocol::SOCKET_PATH, value_name = "PATH")]
        socket: PathBuf,
        /// Name of the Helm release whose node agents may use the socket.
        #[arg(long, value_name = "NAME")]
        release: String,
        /// Namespace of the release.
        #[arg(long, value_name = "NAMESPACE")]
        release_namespace: String,
    }

    #[derive(Args)]
    struct ReadyArgs {
        /// File that exists once `run` has completed its first pass.
        #[arg(long, default_value = "/run/podmeta/link/ready", value_name = "PATH")]
        ready_file: PathBuf,
    }

    #[derive(Args)]
    struct LinkUninstallArgs {
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        plugins: PluginDirArgs,
        /// Directory of libcni's cache. Its entries name the pods that were started with the plugin.
        #[arg(long, default_value = "/var/lib/cni", value_name = "DIR")]
        cni_cache_dir: PathBuf,
        /// Directory of podmeta's state.
        #[arg(long, default_value = "/run/podmeta", value_name = "DIR")]
        state_dir: PathBuf,
        /// Afterwards, write this file and wait until stopped, as a pod of a DaemonSet must.
        #[arg(long, value_name = "PATH")]
        stay: Option<PathBuf>,
    }

    #[derive(Clone, Copy, ValueEnum)]
    enum OnFailureArg {
        /// The pod does not start; the runtime retries.
        Fail,
        /// The pod starts. Without a link, it reaches no metadata service until the link daemon makes the link. With a link
        /// that is not active yet, its first requests can time out.
        Start,
    }

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
                tracing::error!(error = format!("{error:#}"), "podmeta-link failed");
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
                        uplink::detach_all(&args.guard.guard_pins)?;
                    }
                    agent_ns::ensure(&args.namespace.agent_namespace).await?;
                    install::copy_plugin(&args.plugin, &args.plugins.cni_bin_dir)?;
                }
                LinkCommand::Run(args) => {
                    remove_ready(&args.ready.ready_file)?;
                    let ready_file = args.ready.ready_file.clone();
                    let (counters, findings) = (Arc::<Counters>::default(), Arc::<SharedFindings>::default());
                    let checks = Arc::<SharedChecks>::default();
                    let socket = args.socket_config(Arc::clone(&counters), Arc::clone(&findings), Arc::clone(&checks));
                    tokio::spawn(socket::serve(socket::bind(&socket.path)?, socket));
                    daemon::run(args.config(), counters, findings, checks, move || write_ready(&ready_file)).await?;
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

    impl RunArgs {
        fn socket_config(
            &self,
            counters: Arc<Counters>,
            findings: Arc<SharedFindings>,
            checks: Arc<SharedChecks>,
        ) -> LinkSocketConfig {
            LinkSocketConfig {
                path: self.socket.clone(),
                agent_namespace: self.node.namespace.agent_namespace.clone(),
                runtime_socket: self.runtime_socket.clone(),
                agent_pods: AgentPods { namespace: self.release_namespace.clone(), release: self.release.clone() },
                counters,
                findings,
                checks,
            }
        }

        fn config(self) -> DaemonConfig {
            let on_failure = match self.on_failure {
                OnFailureArg::Fail => OnFailure::Fail,
                OnFailureArg::Start => OnFailure::Start,
            };
            DaemonConfig {
                agent_namespace: self.node.namespace.agent_namespace,
                guard_pins: self.guard.uplink_guard.then_some(self.guard.guard_pins),
                cgroup_root: self.cgroup_root,
                node_metadata_namespaces: self.node_metadata_namespaces,
                cni_config_dir: self.node.cni_config_dir,
                runtime_socket: self.runtime_socket,
                settings: LinkSettings { link_range: self.link_range, on_failure },
            }
        }
    }

    /// Removes the file of an earlier process.
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
            Err(error) => tracing::error!(%error, file = %path.display(), "cannot write the ready file"),
        }
    }
}
