//! Hop limit of a response: containers behind a pod, which routes and masquerades their connections as a nested container
//! runtime does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::service::{self, SERVICE_PORT};
use socket2::SockRef;

use crate::kit::{Agent, alias, listener, pod};
use crate::routing::nested;

const RESPONSE: &str = "token";

/// Time in which no part of a response may arrive. The server retransmits the response about four times meanwhile.
const SILENCE: Duration = Duration::from_secs(3);

/// Serves one line, the hop limit, with a response whose packets have this limit. The connections stay open, so the kernel
/// retransmits what is not acknowledged.
fn serve(agent: &Agent) {
    let listener = agent.netns.run(|| listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICE_PORT)))).unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let limit = line.trim().parse::<u32>().unwrap();
            SockRef::from(&stream).set_ttl_v4(limit).unwrap();
            SockRef::from(&stream).set_unicast_hops_v6(limit).unwrap();
            stream.write_all(RESPONSE.as_bytes()).unwrap();
            open.push(stream);
        }
    });
}

/// Requests a response with a hop limit. Returns what arrives before the timeout.
fn request(from: &Netns, address: IpAddr, limit: u32, timeout: Duration) -> String {
    let mut response = vec![0; RESPONSE.len()];
    let read = from.run(|| {
        let mut stream = TcpStream::connect_timeout(&(address, SERVICE_PORT).into(), Duration::from_secs(5))?;
        stream.write_all(format!("{limit}\n").as_bytes())?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(stream.read(&mut response).unwrap_or_default())
    });
    response.truncate(read.unwrap());
    String::from_utf8(response).unwrap()
}

#[tokio::test]
async fn response_reaches_as_many_nested_containers_as_its_hop_limit_allows() {
    let agent = Agent::new().await;
    serve(&agent);
    let pod = pod();
    pod_link::ensure(&agent.netns, &pod, &alias(0), LinkRange::default()).await.unwrap();
    let container = nested(&pod, "imds0", 3);
    let inner_container = nested(&container, "eth0", 4);
    let clients = [pod, container, inner_container];
    std::thread::scope(|scope| {
        for address in service::addresses() {
            for limit in 1..=3 {
                for (routers, client) in (0..).zip(&clients) {
                    scope.spawn(move || {
                        let case = format!("{address}, hop limit {limit}, behind {routers} routers");
                        if routers < limit {
                            assert_eq!(request(client, address, limit, Duration::from_secs(10)), RESPONSE, "{case}");
                        } else {
                            assert_eq!(request(client, address, limit, SILENCE), "", "{case}");
                        }
                    });
                }
            }
        }
    });
}
