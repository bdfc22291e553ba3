//! What runs on a node, and how it is told to: containerd with the bridge CNI plugin, the kubelet, kube-proxy, and
//! what enforces NetworkPolicies.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::control_plane::inner_server;
use crate::init::OWN;
use crate::layout::{ClusterName, DNS_SERVICE, DOMAIN, Node};
use crate::machine::{Running, Service};
use crate::needs;
use crate::pki::{Authority, Identity, write};

/// The sandbox of every pod.
pub const PAUSE: &str = "podmeta.test/pause:1";
/// containerd's socket on a node.
pub const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Writes what a node's programs read.
///
/// # Errors
/// If a file cannot be written.
pub fn configure(
    cluster: &ClusterName,
    node: Node,
    machine: &Running,
    authority: &Authority,
    plugins: &Path,
) -> Result<()> {
    let (folder, name, addresses) = (machine.state(), node.name(cluster), node.addresses());
    let addresses: [IpAddr; 2] = [addresses.0.into(), addresses.1.into()];
    let user = format!("system:node:{name}");
    let kubelet = Identity { name: &user, group: Some("system:nodes"), names: &[&name], addresses: &addresses };
    authority.keep(&folder.join("kubelet.pem"), &kubelet)?;
    authority.kubeconfig(&folder.join("kubelet.kubeconfig"), &inner_server(), &kubelet)?;
    let proxy = Identity { name: "system:kube-proxy", group: None, names: &[], addresses: &[] };
    authority.kubeconfig(&folder.join("kube-proxy.kubeconfig"), &inner_server(), &proxy)?;
    let policies = Identity { name: "network-policies", group: None, names: &[], addresses: &[] };
    authority.kubeconfig(&folder.join("network-policies.kubeconfig"), &inner_server(), &policies)?;
    write(&folder.join("ca.crt"), authority.certificate())?;
    write(&folder.join("resolv.conf"), "# Nothing outside the cluster has a name.\n")?;
    write(&folder.join("containerd.toml"), &containerd())?;
    write(&folder.join("kubelet.yaml"), &kubelet_configuration().to_string())?;
    write(&folder.join("kube-proxy.yaml"), &proxy_configuration(&name).to_string())?;
    let conflist = machine.path("/etc/cni/net.d/10-bridge.conflist");
    // podmeta may have added itself to the one that is there.
    if !conflist.exists() {
        write(&conflist, &cni(node).to_string())?;
    }
    link_plugins(plugins, &machine.path("/opt/cni/bin"))
}

/// A node's container runtime, which its kubelet needs to begin with.
///
/// # Errors
/// If containerd is missing.
pub fn container_runtime() -> Result<Service> {
    let program = needs::find("containerd").context("containerd is missing")?;
    Ok(Service { name: "containerd", program, arguments: vec![format!("--config={OWN}/containerd.toml")] })
}

/// A node's kubelet, kube-proxy, and this program as what enforces NetworkPolicies.
///
/// # Errors
/// If this program cannot be found.
pub fn services(cluster: &ClusterName, node: Node, programs: &Path) -> Result<Vec<Service>> {
    let (ipv4, ipv6) = node.addresses();
    let labels = [
        "topology.kubernetes.io/region=eu-central-1".to_owned(),
        format!("topology.kubernetes.io/zone={}", node.zone()),
        "node.kubernetes.io/instance-type=m7i.large".to_owned(),
    ];
    Ok(vec![
        Service {
            name: "kubelet",
            program: programs.join("kubelet"),
            arguments: vec![
                format!("--config={OWN}/kubelet.yaml"),
                format!("--kubeconfig={OWN}/kubelet.kubeconfig"),
                format!("--hostname-override={}", node.name(cluster)),
                format!("--node-ip={ipv4},{ipv6}"),
                format!("--node-labels={}", labels.join(",")),
            ],
        },
        Service {
            name: "kube-proxy",
            program: programs.join("kube-proxy"),
            arguments: vec![format!("--config={OWN}/kube-proxy.yaml")],
        },
        Service {
            name: "cluster",
            program: std::env::current_exe().context("cannot find this program")?,
            arguments: vec![
                "network-policies".to_owned(),
                format!("{OWN}/network-policies.kubeconfig"),
                node.name(cluster),
            ],
        },
    ])
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Both so that it runs without CAP_SYS_RESOURCE and without AppArmor too.
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
"#
    )
}

fn cni(node: Node) -> serde_json::Value {
    let (pods4, pods6) = node.pods();
    json!({"cniVersion": "1.0.0", "name": "bridge", "plugins": [{
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni/networks",
            "ranges": [[{"subnet": pods4}], [{"subnet": pods6}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }]})
}

fn kubelet_configuration() -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": format!("{OWN}/ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{OWN}/kubelet.pem"),
        "tlsPrivateKeyFile": format!("{OWN}/kubelet.pem"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": DOMAIN,
        "resolvConf": format!("{OWN}/resolv.conf"),
        "maxPods": 300,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 0,
        "serializeImagePulls": false,
        // Images come from no registry: one that is deleted is gone. The disk is the developer's.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    })
}

fn proxy_configuration(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": format!("{OWN}/kube-proxy.kubeconfig")},
        "hostnameOverride": name,
        "mode": "nftables",
        "detectLocalMode": "BridgeInterface",
        "detectLocal": {"bridgeInterface": "cni0"},
        // The machine's own limits stay: a network namespace may not change them.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

/// Beside the plugins a place is left for those that the tests install.
fn link_plugins(plugins: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(plugins).with_context(|| format!("cannot read {}", plugins.display()))? {
        let plugin = entry?;
        let link = folder.join(plugin.file_name());
        if link.symlink_metadata().is_err() {
            symlink(plugin.path(), &link).with_context(|| format!("cannot make {}", link.display()))?;
        }
    }
    Ok(())
}
