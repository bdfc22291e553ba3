//! A pod with NET_ADMIN in the agent namespace that replaces the agent end of a link while the link is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::TryStreamExt as _;
use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec};

use crate::kit::{Agent, alias, interface_of, pod, request, run};

/// Name of the agent end.
const AGENT_END: &str = "msandbox0";

/// Links that are made while the attack runs.
const ATTEMPTS: usize = 60;

fn is_veth(link: &LinkMessage) -> bool {
    let is_veth = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Veth));
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(info) if info.iter().any(is_veth)))
}

/// Renames each new agent end, and gives its name to an interface of the attacker. Returns the number of replaced ends.
async fn replace_ends(handle: &Handle, stop: &AtomicBool) -> usize {
    let mut replaced = 0;
    while !stop.load(Ordering::Relaxed) {
        let found = handle.link().get().match_name(AGENT_END.to_owned()).execute().try_next().await;
        let Ok(Some(link)) = found else { continue };
        if !is_veth(&link) {
            continue;
        }
        let renamed = LinkUnspec::new_with_index(link.header.index).name(format!("taken{replaced}")).build();
        if handle.link().set(renamed).execute().await.is_ok()
            && handle.link().add(LinkBridge::new(AGENT_END).build()).execute().await.is_ok()
        {
            replaced += 1;
        }
    }
    replaced
}

/// Starts [`replace_ends`] in a thread in the agent namespace.
fn attack(agent: &Agent, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let netns = Netns::open(&agent.path).unwrap();
    std::thread::spawn(move || {
        let attack = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                replace_ends(&handle, &stop).await
            }))
        };
        netns.run(attack).unwrap()
    })
}

#[tokio::test]
async fn interface_that_replaces_an_agent_end_gets_no_alias() {
    let agent = Agent::new().await;
    agent.serve();
    let pod = pod();
    let stop = Arc::new(AtomicBool::new(false));
    let attack = attack(&agent, Arc::clone(&stop));
    let mut made = 0;
    for _ in 0..ATTEMPTS {
        let result = pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await;
        made += usize::from(result.is_ok());
        let bridges = run(&agent.netns, "ip -o link show type bridge");
        assert!(!bridges.contains("uid="), "an interface of the attacker has an alias: {bridges}");
    }
    stop.store(true, Ordering::Relaxed);
    let replaced = attack.join().unwrap();
    assert!(replaced > 0 && made < ATTEMPTS, "the attack had no effect: {replaced} replaced, {made} made");
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    for address in service::addresses() {
        assert_eq!(request(&pod, address).unwrap(), interface_of(&agent, 0), "{address}");
    }
}
