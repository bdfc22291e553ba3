//! Hop limit of the agent's response with a token: containers behind a pod, which routes and masquerades their connections as a
//! nested container runtime does.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use podmeta_link::netns::Netns;
use podmeta_link::range::LinkRange;
use podmeta_link::service::{self, SERVICE_PORT};

use crate::kit::pod;
use crate::node::ServingNode;
use crate::routing::nested;

/// A request of a token, with the headers of both dialects.
const REQUEST: &str = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n\
    X-aws-ec2-metadata-token-ttl-seconds: 60\r\nX-aliyun-ecs-metadata-token-ttl-seconds: 60\r\n\r\n";

/// Timeout of a response that must arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which no part of a response may arrive. The kernel retransmits the response about four times meanwhile.
const SILENCE: Duration = Duration::from_secs(3);

/// Requests a token. Returns the start of the response that arrives before the timeout.
fn request_token(from: &Netns, address: IpAddr, timeout: Duration) -> String {
    let request = || {
        let mut stream = TcpStream::connect_timeout(&(address, SERVICE_PORT).into(), TIMEOUT)?;
        stream.write_all(REQUEST.as_bytes())?;
        stream.set_read_timeout(Some(timeout))?;
        let mut response = [0; 15];
        let read = stream.read(&mut response).unwrap_or_default();
        Ok(String::from_utf8_lossy(&response[..read]).into_owned())
    };
    from.run(request).unwrap()
}

#[tokio::test]
async fn token_reaches_as_many_nested_containers_as_the_hop_limit_allows() {
    for limit in 1..=3 {
        let node = ServingNode::start_with_options(1, &format!("httpPutResponseHopLimit: {limit}")).await;
        let pod = pod();
        node.make_link(&pod, 0, LinkRange::default()).await;
        let container = nested(&pod, "imds0", 3);
        let inner_container = nested(&container, "eth0", 4);
        let clients = [pod, container, inner_container];
        std::thread::scope(|scope| {
            for address in service::addresses() {
                for (routers, client) in (0..).zip(&clients) {
                    scope.spawn(move || {
                        let case = format!("{address}, hop limit {limit}, behind {routers} routers");
                        if routers < limit {
                            assert_eq!(request_token(client, address, TIMEOUT), "HTTP/1.1 200 OK", "{case}");
                        } else {
                            assert_eq!(request_token(client, address, SILENCE), "", "{case}");
                        }
                    });
                }
            }
        });
    }
}
