//! Services of the machine `control-plane` and their configuration.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

use super::pki::{CertificateSubject, ClusterCa, ensure_key_pair, write_private};
use crate::layout::{API_SERVICE_ADDRESS, ClusterName, FABRIC_ADDRESSES, HostLink, SERVICE_RANGES, TOKEN_ISSUER};
use crate::machine::init::STATE_MOUNT;
use crate::machine::{MachineService, RunningMachine};

const API_SERVER_PORT: u16 = 6443;

/// Returns the API server's URL inside the cluster.
#[must_use]
pub fn internal_url() -> String {
    format!("https://{}:{API_SERVER_PORT}", FABRIC_ADDRESSES.0)
}

/// Writes certificates, keys and kubeconfigs of the control plane's programs.
///
/// # Errors
/// If a file cannot be written.
pub fn configure(cluster: &ClusterName, machine: &RunningMachine, ca: &ClusterCa, link: HostLink) -> Result<()> {
    let dir = machine.state_dir();
    let addresses: Vec<IpAddr> = vec![
        FABRIC_ADDRESSES.0.into(),
        FABRIC_ADDRESSES.1.into(),
        API_SERVICE_ADDRESS.into(),
        link.cluster().into(),
        IpAddr::from([127, 0, 0, 1]),
    ];
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    // The certificate contains an address of the link, so the name of its file contains the link's number.
    let api_server =
        CertificateSubject { name: "kube-apiserver", group: None, dns_names: &names, addresses: &addresses };
    ca.ensure_certificate(&dir.join(format!("api-server-{}.pem", link.0)), &api_server)?;
    ca.ensure_certificate(&dir.join("kubelet-client.pem"), &user("kube-apiserver", Some("system:masters")))?;
    write_private(&dir.join("ca.crt"), ca.certificate())?;
    write_private(&dir.join("ca.pem"), &std::fs::read_to_string(ca.file())?)?;
    ensure_key_pair(&dir.join("service-accounts.key"), &dir.join("service-accounts.pub"))?;
    for program in ["kube-controller-manager", "kube-scheduler"] {
        let name = format!("system:{program}");
        ca.ensure_kubeconfig(&dir.join(format!("{program}.kubeconfig")), &internal_url(), &user(&name, None))?;
    }
    let admin = user("admin", Some("system:masters"));
    ca.ensure_kubeconfig(
        &cluster.state_dir().join("kubeconfig"),
        &format!("https://{}:{API_SERVER_PORT}", link.cluster()),
        &admin,
    )
}

/// Returns the subject of a client certificate.
fn user<'a>(name: &'a str, group: Option<&'a str>) -> CertificateSubject<'a> {
    CertificateSubject { name, group, dns_names: &[], addresses: &[] }
}

fn service(programs: &Path, name: &'static str, arguments: &[String]) -> MachineService {
    MachineService { name, program: programs.join(name), arguments: arguments.to_vec() }
}

/// Returns a flag whose value is the path of a file in the state directory of the machine.
fn file_flag(flag: &str, file: &str) -> String {
    format!("--{flag}={STATE_MOUNT}/{file}")
}

/// Returns the services etcd and kube-apiserver.
#[must_use]
pub fn etcd_and_api_server(programs: &Path, link: HostLink) -> Vec<MachineService> {
    let serving = format!("api-server-{}.pem", link.0);
    vec![
        service(
            programs,
            "etcd",
            &[
                file_flag("data-dir", "etcd"),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
                "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
                "--initial-cluster=default=http://127.0.0.1:2380".into(),
                "--unsafe-no-fsync".into(), // the data need not survive a power loss
            ],
        ),
        service(
            programs,
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379".into(),
                format!("--advertise-address={}", FABRIC_ADDRESSES.0),
                format!("--secure-port={API_SERVER_PORT}"),
                format!("--service-cluster-ip-range={SERVICE_RANGES}"),
                file_flag("client-ca-file", "ca.crt"),
                file_flag("tls-cert-file", &serving),
                file_flag("tls-private-key-file", &serving),
                file_flag("kubelet-client-certificate", "kubelet-client.pem"),
                file_flag("kubelet-client-key", "kubelet-client.pem"),
                file_flag("kubelet-certificate-authority", "ca.crt"),
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!("--service-account-issuer={TOKEN_ISSUER}"),
                file_flag("service-account-key-file", "service-accounts.pub"),
                file_flag("service-account-signing-key-file", "service-accounts.key"),
                "--authorization-mode=Node,RBAC".into(),
                "--enable-admission-plugins=NodeRestriction".into(),
                "--allow-privileged=true".into(),
            ],
        ),
    ]
}

/// Returns the services kube-controller-manager and kube-scheduler. They need a ready API server.
#[must_use]
pub fn controllers(programs: &Path) -> Vec<MachineService> {
    let kubeconfig = |name: &str| file_flag("kubeconfig", &format!("{name}.kubeconfig"));
    vec![
        service(
            programs,
            "kube-controller-manager",
            &[
                kubeconfig("kube-controller-manager"),
                file_flag("root-ca-file", "ca.crt"),
                file_flag("service-account-private-key-file", "service-accounts.key"),
                file_flag("cluster-signing-cert-file", "ca.pem"),
                file_flag("cluster-signing-key-file", "ca.pem"),
                "--use-service-account-credentials=true".into(),
                "--leader-elect=false".into(),
            ],
        ),
        service(programs, "kube-scheduler", &[kubeconfig("kube-scheduler"), "--leader-elect=false".into()]),
    ]
}
