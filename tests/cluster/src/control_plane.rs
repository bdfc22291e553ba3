//! What runs on the machine `control-plane`, and how it is told to.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

use crate::init::OWN;
use crate::layout::{API_SERVICE, ClusterName, FABRIC, HostLink, ISSUER, SERVICES};
use crate::machine::{Running, Service};
use crate::pki::{Authority, Identity, keep_key, write};

const PORT: u16 = 6443;

/// The API server's address to nodes and pods.
#[must_use]
pub fn inner_server() -> String {
    format!("https://{}:{PORT}", FABRIC.0)
}

/// Writes what the control plane's programs read.
///
/// # Errors
/// If a file cannot be written.
pub fn configure(cluster: &ClusterName, machine: &Running, authority: &Authority, link: HostLink) -> Result<()> {
    let folder = machine.state();
    let addresses: Vec<IpAddr> =
        vec![FABRIC.0.into(), FABRIC.1.into(), API_SERVICE.into(), link.cluster().into(), IpAddr::from([127, 0, 0, 1])];
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let api_server = Identity { name: "kube-apiserver", group: None, names: &names, addresses: &addresses };
    authority.keep(&folder.join(format!("api-server-{}.pem", link.0)), &api_server)?;
    authority.keep(&folder.join("kubelet-client.pem"), &user("kube-apiserver", Some("system:masters")))?;
    write(&folder.join("ca.crt"), authority.certificate())?;
    write(&folder.join("ca.pem"), &std::fs::read_to_string(authority.file())?)?;
    keep_key(&folder.join("service-accounts.key"), &folder.join("service-accounts.pub"))?;
    for program in ["kube-controller-manager", "kube-scheduler"] {
        let name = format!("system:{program}");
        authority.kubeconfig(&folder.join(format!("{program}.kubeconfig")), &inner_server(), &user(&name, None))?;
    }
    let admin = user("admin", Some("system:masters"));
    authority.kubeconfig(&cluster.state().join("kubeconfig"), &format!("https://{}:{PORT}", link.cluster()), &admin)
}

fn user<'a>(name: &'a str, group: Option<&'a str>) -> Identity<'a> {
    Identity { name, group, names: &[], addresses: &[] }
}

fn service(programs: &Path, name: &'static str, arguments: &[String]) -> Service {
    Service { name, program: programs.join(name), arguments: arguments.to_vec() }
}

fn own(flag: &str, file: &str) -> String {
    format!("--{flag}={OWN}/{file}")
}

/// etcd and the API server.
#[must_use]
pub fn api_server(programs: &Path, link: HostLink) -> Vec<Service> {
    let serving = format!("api-server-{}.pem", link.0);
    vec![
        service(
            programs,
            "etcd",
            &[
                own("data-dir", "etcd"),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
                "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
                "--initial-cluster=default=http://127.0.0.1:2380".into(),
                "--unsafe-no-fsync".into(), // a test cluster does not outlive its machine's power
            ],
        ),
        service(
            programs,
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379".into(),
                format!("--advertise-address={}", FABRIC.0),
                format!("--secure-port={PORT}"),
                format!("--service-cluster-ip-range={SERVICES}"),
                own("client-ca-file", "ca.crt"),
                own("tls-cert-file", &serving),
                own("tls-private-key-file", &serving),
                own("kubelet-client-certificate", "kubelet-client.pem"),
                own("kubelet-client-key", "kubelet-client.pem"),
                own("kubelet-certificate-authority", "ca.crt"),
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!("--service-account-issuer={ISSUER}"),
                own("service-account-key-file", "service-accounts.pub"),
                own("service-account-signing-key-file", "service-accounts.key"),
                "--authorization-mode=Node,RBAC".into(),
                "--enable-admission-plugins=NodeRestriction".into(),
                "--allow-privileged=true".into(),
            ],
        ),
    ]
}

/// What needs an API server that answers: the controllers and the scheduler.
#[must_use]
pub fn controllers(programs: &Path) -> Vec<Service> {
    let kubeconfig = |name: &str| own("kubeconfig", &format!("{name}.kubeconfig"));
    vec![
        service(
            programs,
            "kube-controller-manager",
            &[
                kubeconfig("kube-controller-manager"),
                own("root-ca-file", "ca.crt"),
                own("service-account-private-key-file", "service-accounts.key"),
                own("cluster-signing-cert-file", "ca.pem"),
                own("cluster-signing-key-file", "ca.pem"),
                "--use-service-account-credentials=true".into(),
                "--leader-elect=false".into(),
            ],
        ),
        service(programs, "kube-scheduler", &[kubeconfig("kube-scheduler"), "--leader-elect=false".into()]),
    ]
}
