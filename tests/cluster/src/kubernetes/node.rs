//! Services of a node and their configuration: containerd with its CNI plugin, kubelet, kube-proxy, and the
//! enforcement of NetworkPolicies.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::control_plane::internal_url;
use super::pki::{CertificateSubject, ClusterCa, write_private};
use crate::images::PAUSE;
use crate::layout::{CLUSTER_DOMAIN, ClusterName, DNS_SERVICE_ADDRESS, NodeId};
use crate::machine::init::STATE_MOUNT;
use crate::machine::{MachineService, RunningMachine};
use crate::network::cni;
use crate::network::datapath::Datapath;
use crate::programs::CONTAINERD_MODULE;

/// containerd's socket on a node.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Writes certificates, kubeconfigs and configuration of a node's programs.
///
/// # Errors
/// If a file cannot be written.
pub fn configure(
    cluster: &ClusterName,
    node: NodeId,
    machine: &RunningMachine,
    ca: &ClusterCa,
    datapath: Datapath,
    plugins: &Path,
) -> Result<()> {
    let (dir, name, addresses) = (machine.state_dir(), node.name(cluster), node.addresses());
    let addresses: [IpAddr; 2] = [addresses.0.into(), addresses.1.into()];
    let user = format!("system:node:{name}");
    let kubelet =
        CertificateSubject { name: &user, group: Some("system:nodes"), dns_names: &[&name], addresses: &addresses };
    ca.ensure_certificate(&dir.join("kubelet.pem"), &kubelet)?;
    ca.ensure_kubeconfig(&dir.join("kubelet.kubeconfig"), &internal_url(), &kubelet)?;
    let proxy = CertificateSubject { name: "system:kube-proxy", group: None, dns_names: &[], addresses: &[] };
    ca.ensure_kubeconfig(&dir.join("kube-proxy.kubeconfig"), &internal_url(), &proxy)?;
    let policies = CertificateSubject { name: "network-policies", group: None, dns_names: &[], addresses: &[] };
    ca.ensure_kubeconfig(&dir.join("network-policies.kubeconfig"), &internal_url(), &policies)?;
    write_private(&dir.join("ca.crt"), ca.certificate())?;
    write_private(&dir.join("resolv.conf"), "# No upstream DNS: only names of the cluster resolve.\n")?;
    write_private(&dir.join("containerd.toml"), &containerd_config(&CONTAINERD_MODULE.build()?))?;
    write_private(&dir.join("kubelet.yaml"), &kubelet_config().to_string())?;
    write_private(&dir.join("kube-proxy.yaml"), &kube_proxy_config(&name, datapath).to_string())?;
    let conflist = machine.path(&format!("/etc/cni/net.d/10-{datapath}.conflist"));
    // Keep an existing file: podmeta follows each change of it.
    if !conflist.exists() {
        write_private(&conflist, &datapath.cni_config(node).to_string())?;
    }
    let plugin_dir = machine.path("/opt/cni/bin");
    link_plugins(plugins, &plugin_dir)?;
    write_own_plugin(&plugin_dir.join(cni::PLUGIN_TYPE))
}

/// Returns containerd, which must run before the kubelet starts.
///
/// # Errors
/// If it cannot be built.
pub fn container_runtime() -> Result<MachineService> {
    Ok(MachineService {
        name: "containerd",
        program: CONTAINERD_MODULE.build()?.join("containerd"),
        arguments: vec![format!("--config={STATE_MOUNT}/containerd.toml")],
    })
}

/// Returns kubelet, kube-proxy and this program, which enforces NetworkPolicies. The kubelet registers the node with `taints`,
/// which has the form `KEY=VALUE:EFFECT,…`.
///
/// # Errors
/// If the path of this program cannot be found.
pub fn services(
    cluster: &ClusterName,
    node: NodeId,
    programs: &Path,
    taints: Option<&str>,
) -> Result<Vec<MachineService>> {
    let (ipv4, ipv6) = node.addresses();
    let labels = [
        "topology.kubernetes.io/region=eu-central-1".to_owned(),
        format!("topology.kubernetes.io/zone={}", node.zone()),
        "node.kubernetes.io/instance-type=m7i.large".to_owned(),
    ];
    let mut kubelet = MachineService {
        name: "kubelet",
        program: programs.join("kubelet"),
        arguments: vec![
            format!("--config={STATE_MOUNT}/kubelet.yaml"),
            format!("--kubeconfig={STATE_MOUNT}/kubelet.kubeconfig"),
            format!("--hostname-override={}", node.name(cluster)),
            format!("--node-ip={ipv4},{ipv6}"),
            format!("--node-labels={}", labels.join(",")),
        ],
    };
    kubelet.arguments.extend(taints.map(|taints| format!("--register-with-taints={taints}")));
    Ok(vec![
        kubelet,
        MachineService {
            name: "kube-proxy",
            program: programs.join("kube-proxy"),
            arguments: vec![format!("--config={STATE_MOUNT}/kube-proxy.yaml")],
        },
        MachineService {
            name: "cluster",
            program: std::env::current_exe().context("cannot find the path of this program")?,
            arguments: vec![
                "network-policies".to_owned(),
                format!("{STATE_MOUNT}/network-policies.kubeconfig"),
                node.name(cluster),
            ],
        },
    ])
}

/// Returns the configuration of containerd. `programs` contains the shim and runc.
fn containerd_config(programs: &Path) -> String {
    let programs = programs.display();
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
# Both settings let containerd run without CAP_SYS_RESOURCE and without AppArmor.
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{programs}/containerd-shim-runc-v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{programs}/runc"
"#
    )
}

fn kubelet_config() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": format!("{STATE_MOUNT}/ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{STATE_MOUNT}/kubelet.pem"),
        "tlsPrivateKeyFile": format!("{STATE_MOUNT}/kubelet.pem"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": format!("{STATE_MOUNT}/resolv.conf"),
        "maxPods": 300,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 0,
        "serializeImagePulls": false,
        // Tests kill containers often. The default delay before a restart grows to five minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        // No garbage collection: there is no registry to pull an image from again, and the disk is shared with the host.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    })
}

fn kube_proxy_config(name: &str, datapath: Datapath) -> Value {
    let mut config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": format!("{STATE_MOUNT}/kube-proxy.kubeconfig")},
        "hostnameOverride": name,
        "mode": "nftables",
        // Keep the host's limits: a network namespace cannot change them.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    });
    if let (Value::Object(config), Value::Object(local)) = (&mut config, datapath.local_traffic()) {
        config.extend(local);
    }
    config
}

/// Writes the plugin of this program.
fn write_own_plugin(path: &Path) -> Result<()> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let script = format!("#!/bin/sh\nexec '{}' cni-plugin\n", program.display());
    // A new file, because a runtime may be executing the previous one.
    let new = path.with_extension("new");
    fs::write(&new, script)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Links the host's CNI plugins into the machine's plugin directory, where tests can install others.
fn link_plugins(plugins: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(plugins).with_context(|| format!("cannot read {}", plugins.display()))? {
        let plugin = entry?;
        let link = dir.join(plugin.file_name());
        if link.symlink_metadata().is_err() {
            symlink(plugin.path(), &link).with_context(|| format!("cannot create {}", link.display()))?;
        }
    }
    Ok(())
}
