//! The programs of tcx at the egress of a node's interfaces, which a privileged pod on the host network reads.

use anyhow::Result;
use podmeta_cluster::images::CLIENT;
use serde_json::json;

use crate::kit::{TestNamespace, TestNode};

/// Name of the pod.
const OBSERVER: &str = "observer";

/// Python program that prints each interface with the number of its programs, if it has some. Leaves out the interfaces of pods.
/// Source: `BPF_PROG_QUERY` and `BPF_TCX_EGRESS` in linux/bpf.h.
const LIST_PROGRAMS: &str = r#"
import ctypes, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
call = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
for index, name in socket.if_nameindex():
    query = ctypes.create_string_buffer(struct.pack('<IIIIQIIQQQQ', index, 47, *[0] * 9))
    if libc.syscall(call, 16, query, 64) < 0:
        raise OSError(ctypes.get_errno(), f'cannot list the programs of {name}')
    count = struct.unpack_from('<I', query, 24)[0]
    if count > 0 and not name.startswith('veth'):
        print(name, count)
"#;

/// Starts the pod that reads the programs of a node.
pub(super) async fn start_observer(namespace: &TestNamespace, node: &TestNode) -> Result<()> {
    let client = json!({
        "name": "client", "image": CLIENT, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
        "securityContext": {"privileged": true},
    });
    let spec = json!({"nodeName": node.name, "hostNetwork": true, "containers": [client]});
    namespace.start_client(OBSERVER, spec).await.map(drop)
}

/// Returns the interfaces of the observer's node that have programs, with their number.
pub(super) async fn egress_programs(namespace: &TestNamespace) -> Result<String> {
    namespace.run(OBSERVER, &["python3", "-c", LIST_PROGRAMS]).await
}
