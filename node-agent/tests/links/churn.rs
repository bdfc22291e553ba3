//! Pods that end and start again with the same addresses, while the agent runs: no response is that of another pod.

use std::sync::atomic::{AtomicUsize, Ordering};

use podmeta_link::range::LinkRange;
use podmeta_link::service;

use crate::client::{INSTANCE_ID, PodConnection};
use crate::kit::{pod, run};
use crate::node::ServingNode;

/// Requests of all pods together, unless the variable is set.
const REQUESTS: usize = 20_000;

/// Environment variable with the number of requests.
const REQUESTS_VARIABLE: &str = "PODMETA_CHURN_REQUESTS";

/// Pods that run at the same time.
const SLOTS: usize = 6;

/// Requests of one pod. Half of them are on new connections.
const REQUESTS_PER_POD: usize = 240;

/// The range of the links' addresses. All but [`FREE_ADDRESSES`] are reserved, so that new pods get the addresses of pods
/// that ended.
const RANGE: &str = "10.99.0.0/24";

/// Addresses that links can have. A link can exist for some time after its pod.
const FREE_ADDRESSES: usize = 12;

#[tokio::test]
async fn pods_with_reused_addresses_get_only_their_own_identity() {
    let requests = std::env::var(REQUESTS_VARIABLE).map_or(REQUESTS, |text| text.parse().unwrap());
    let pods = requests.div_ceil(REQUESTS_PER_POD);
    let mut node = ServingNode::start(pods).await;
    let reserved = (FREE_ADDRESSES + 1..255).map(|host| format!("route add 10.99.0.{host}/32 dev lo\n"));
    let batch = node.agent.path.with_file_name("reserved");
    std::fs::write(&batch, reserved.collect::<String>()).unwrap();
    run(&node.agent.netns, &format!("ip -batch {}", batch.display()));
    let next = AtomicUsize::new(0);
    let checked = std::thread::scope(|scope| {
        let slots = (0..SLOTS).map(|slot| {
            let (node, next) = (&node, &next);
            scope.spawn(move || serve_slot(node, slot, next, pods))
        });
        let slots = slots.collect::<Vec<_>>();
        slots.into_iter().map(|slot| slot.join().unwrap()).sum::<usize>()
    });
    assert_eq!(checked, pods * REQUESTS_PER_POD);
    assert!(node.is_running());
    println!("{checked} identities of {pods} pods are right");
}

/// Starts one pod after another with the same addresses, until no pod is left. Returns the number of responses.
fn serve_slot(node: &ServingNode, slot: usize, next: &AtomicUsize, pods: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let range = RANGE.parse::<LinkRange>().unwrap();
    let mut checked = 0;
    // The connections of the last pod stay open while the next one starts.
    let mut last = Vec::new();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= pods {
            return checked;
        }
        let pod = pod();
        run(&pod, "ip link add eth0 type veth peer name peer0");
        run(&pod, &format!("ip addr add 10.244.1.{}/24 dev eth0", slot + 2));
        runtime.block_on(node.make_link(&pod, n, range));
        let kept = pod.run(|| {
            let connect = |address| Ok((address, PodConnection::connect(address)?));
            let mut kept = service::addresses().into_iter().map(connect).collect::<std::io::Result<Vec<_>>>()?;
            for number in 0..REQUESTS_PER_POD {
                let next = number / 2 % kept.len();
                let (address, client) = &mut kept[next];
                let response = match number % 2 {
                    0 => client.get(INSTANCE_ID)?,
                    _ => PodConnection::connect(*address)?.get(INSTANCE_ID)?,
                };
                assert_eq!(response, (200, node.instance_id(n, *address).to_owned()), "pod {n}, {address}");
                checked += 1;
            }
            Ok(kept)
        });
        drop(std::mem::replace(&mut last, kept.unwrap()));
        // The sockets keep the namespace, so the link is removed.
        run(&pod, "ip link del imds0");
    }
}
