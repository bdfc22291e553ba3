//! Pods on loopback ports: output, responses and reloads.

use crate::support::{ClientConnection, DevDirectory, DevServerProcess, endpoint_address, get, pod_and_profile, token};

#[test]
fn pod_has_the_same_port_after_a_restart() {
    let directory = DevDirectory::new("ports");
    // Ports are derived from the name. No other test has a pod with this one, so none takes the port meanwhile.
    directory.write("pods.yaml", &pod_and_profile("").replace("{name: web, labels", "{name: web-ports, labels"));
    let (server, first) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    let address = endpoint_address(&first, "default/web-ports", "ec2").unwrap();
    assert_eq!(endpoint_address(&first, "default/web-ports", "ecs"), None);
    let (status, id) = get(&address, "/latest/meta-data/instance-id");
    assert_eq!(status, 200);
    assert_eq!(server.terminate(), Some(0));
    let (server, second) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    assert_eq!(endpoint_address(&second, "default/web-ports", "ec2").unwrap(), address);
    assert_eq!(get(&address, "/latest/meta-data/instance-id"), (200, id));
    drop(server);
}

#[test]
fn token_stays_valid_after_a_restart() {
    let directory = DevDirectory::new("token");
    directory.write("pods.yaml", &pod_and_profile(""));
    let (server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    let token = token(&address);
    assert_eq!(server.terminate(), Some(0));
    let (_server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    // The server of another test can have taken the port meanwhile.
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    let (status, _) = ClientConnection::open(&address).request("GET /latest/meta-data/", &[token]).unwrap();
    assert_eq!(status, 200);
}

#[test]
fn edit_applies_to_open_connections_and_an_invalid_edit_changes_nothing() {
    let directory = DevDirectory::new("reload");
    let item = |value: &str| pod_and_profile(&format!("  metadata: [{{dialect: ec2, path: a, value: {value}}}]\n"));
    directory.write("pods.yaml", &item("one"));
    let (server, report) = DevServerProcess::start(&directory, &["-f", "."]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    let token = token(&address);
    let mut open = ClientConnection::open(&address);
    let mut get_item = || open.request("GET /latest/meta-data/a", std::slice::from_ref(&token));
    assert_eq!(get_item().unwrap().1, "one");

    directory.write("pods.yaml", &item("two"));
    server.wait_for_error_line("reloaded: default/web changed");
    assert_eq!(get_item().unwrap().1, "two");

    directory.write("pods.yaml", &pod_and_profile("  unknown: true\n"));
    server.wait_for_error_line("spec.unknown");
    server.wait_for_error_line("keeping the previous pods");
    assert_eq!(get_item().unwrap().1, "two");

    directory.write("pods.yaml", &item("three"));
    server.wait_for_error_line("reloaded: default/web changed");
    assert_eq!(get_item().unwrap().1, "three");
}

#[test]
fn deleted_pod_closes_its_port_and_gets_503_on_open_connections() {
    let directory = DevDirectory::new("delete");
    let other = pod_and_profile("").replace("name: web", "name: other").replace("app: web", "app: other");
    directory.write("web.yaml", &pod_and_profile(""));
    directory.write("other.yaml", &other);
    let (server, report) = DevServerProcess::start(&directory, &["-f", "."]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    let token = token(&address);
    let mut open = ClientConnection::open(&address);
    assert_eq!(open.request("GET /latest/", std::slice::from_ref(&token)).unwrap().0, 200);
    directory.write("web.yaml", "");
    server.wait_for_error_line("reloaded: default/web removed");
    assert_eq!(endpoint_address(&server.report(), "default/web", "ec2"), None);
    assert!(std::net::TcpStream::connect(&address).is_err(), "the port is closed");
    assert_eq!(open.request("GET /latest/", std::slice::from_ref(&token)).unwrap().0, 503);
    assert_eq!(open.request("GET /latest/", std::slice::from_ref(&token)), None, "the connection is closed");
}

#[test]
fn pod_without_a_profile_gets_403_and_the_reason_is_printed() {
    let directory = DevDirectory::new("denied");
    directory.write(
        "pods.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: a, image: a}]}}",
    );
    let (server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    server.wait_for_error_line("default/web is denied on every path: no MetadataProfile matches it");
    for dialect in ["ec2", "ecs"] {
        let address = endpoint_address(&report, "default/web", dialect).unwrap();
        let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60".to_owned();
        assert_eq!(ClientConnection::open(&address).request("PUT /latest/api/token", &[ttl]).unwrap().0, 403);
        assert_eq!(ClientConnection::open(&address).request("GET /", &[]).unwrap().0, 403);
    }
}

#[test]
fn rejection_is_logged_with_its_reason_and_no_line_contains_a_secret() {
    let directory = DevDirectory::new("why");
    let secret = "---\n{apiVersion: v1, kind: Secret, metadata: {name: s, labels: {podmeta.dev/usable-by: metadataprofiles}}, stringData: {accessKeyId: AKIAX, secretAccessKey: hunter2}}\n";
    let role = "  roles: [{name: r, dialect: ec2, secret: {name: s}}]\n";
    directory.write("pods.yaml", &format!("{}{secret}", pod_and_profile(role)));
    let (server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml", "--log", "debug"]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 0".to_owned();
    assert_eq!(ClientConnection::open(&address).request("PUT /latest/api/token", &[ttl]).unwrap().0, 400);
    assert!(server.wait_for_error_line("status=400").contains("not a number from 1 to 21600"));
    let (status, keys) = get(&address, "/latest/meta-data/iam/security-credentials/r");
    assert!(status == 200 && keys.contains("hunter2"), "{keys}");
    let line = server.wait_for_error_line("path=\"credentials\"");
    assert!(line.contains("pod=default/web") && line.contains("token=true"), "{line}");
    assert!(!line.contains("hunter2") && !line.contains("security-credentials/r"), "{line}");
    assert_eq!(ClientConnection::open(&address).request("GET /latest/meta-data/", &[]).unwrap().0, 401);
    assert!(server.wait_for_error_line("status=401").contains("httpTokens"));
}

#[test]
fn listen_address_over_ipv6_needs_http_protocol_ipv6() {
    let directory = DevDirectory::new("listen");
    directory.write("pods.yaml", &pod_and_profile(""));
    let (server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml", "--listen", "web/ec2=[::1]:0"]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    assert!(address.starts_with("[::1]:"), "{address}");
    assert_eq!(ClientConnection::open(&address).request("GET /latest/", &[]).unwrap().0, 403);
    assert!(server.wait_for_error_line("status=403").contains("httpProtocolIpv6"));
    directory.write("pods.yaml", &pod_and_profile("  metadataOptions: {httpProtocolIpv6: enabled}\n"));
    server.wait_for_error_line("reloaded");
    assert_eq!(get(&address, "/latest/").0, 200);
}

#[test]
fn listen_address_of_an_unknown_pod_is_an_error_with_the_known_ones() {
    let directory = DevDirectory::new("listen-nobody");
    directory.write("pods.yaml", &pod_and_profile(""));
    let output = directory.run(&["-f", "pods.yaml", "--listen", "nobody/ec2=127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no default/nobody/ec2") && errors.contains("default/web/ec2"), "{errors}");
}

#[test]
fn a_web_page_that_has_its_name_point_here_gets_nothing() {
    let directory = DevDirectory::new("rebinding");
    directory.write("pods.yaml", &pod_and_profile("  metadataOptions: {httpTokens: optional}\n"));
    let (_server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    let status_with_host = |host: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET /latest/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    for host in ["evil.example:20000", "", "instance-data", "user@localhost"] {
        assert_eq!(status_with_host(host), 400, "{host}");
    }
    for host in ["127.0.0.1:20000", "localhost:20000", "[::1]:20000", "169.254.169.254"] {
        assert_eq!(status_with_host(host), 200, "{host}");
    }
}

#[test]
fn admin_port_serves_health_and_metrics_and_no_pod_data() {
    let directory = DevDirectory::new("admin");
    directory.write("pods.yaml", &pod_and_profile(""));
    let (_server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    get(&address, "/latest/meta-data/some-path-of-the-client-s-choosing");
    let get_admin = |path: &str| {
        ClientConnection::open(report["admin"].as_str().unwrap()).request(&format!("GET {path}"), &[]).unwrap()
    };
    assert_eq!(get_admin("/healthz").0, 200);
    assert_eq!(get_admin("/latest/meta-data/").0, 404);
    let (status, metrics) = get_admin("/metrics");
    assert_eq!(status, 200);
    let count = "podmeta_agent_requests_total{dialect=\"ec2\",path=\"meta-data\",status=\"404\",token=\"yes\"} 1";
    assert!(metrics.contains(count), "{metrics}");
    assert!(metrics.contains("podmeta_agent_tokens_issued_total{dialect=\"ec2\"} 1"), "{metrics}");
    assert!(!metrics.contains("choosing") && !metrics.contains("web"), "{metrics}");
}

#[cfg(target_os = "linux")]
#[test]
fn process_of_a_user_that_is_not_allowed_gets_403() {
    let directory = DevDirectory::new("users");
    let me = nix::unistd::getuid().as_raw();
    let write = |users: &str| directory.write("pods.yaml", &pod_and_profile(users));
    write(&format!("  deniedUsers: [{me}]\n"));
    let (server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    assert_eq!(ClientConnection::open(&address).request("GET /latest/", &[]).unwrap().0, 403);
    assert!(server.wait_for_error_line("status=403").contains("deniedUsers"));
    write(&format!("  allowedUsers: [{me}]\n"));
    server.wait_for_error_line("reloaded");
    assert_eq!(get(&address, "/latest/").0, 200);
    write(&format!("  allowedUsers: [{}]\n", me + 1));
    server.wait_for_error_line("reloaded");
    assert_eq!(ClientConnection::open(&address).request("GET /latest/", &[]).unwrap().0, 403);
}

#[test]
fn connection_over_the_limit_of_the_profile_is_closed() {
    let directory = DevDirectory::new("connections");
    directory.write("pods.yaml", &pod_and_profile("  limits: {connections: 2}\n"));
    let (server, report) = DevServerProcess::start(&directory, &["-f", "pods.yaml"]);
    let address = endpoint_address(&report, "default/web", "ec2").unwrap();
    let mut open = [ClientConnection::open(&address), ClientConnection::open(&address)];
    for connection in &mut open {
        assert_eq!(connection.request("GET /latest/", &[]).unwrap().0, 401);
    }
    assert_eq!(ClientConnection::open(&address).request("GET /latest/", &[]), None);
    assert!(server.wait_for_error_line("spec.limits.connections").contains("default/web"));
    let [first, mut second] = open;
    drop(first);
    assert_eq!(second.request("GET /latest/", &[]).unwrap().0, 401);
    // The address is free once the server has seen the end of the first connection.
    while ClientConnection::open(&address).request("GET /latest/", &[]).is_none() {}
}
