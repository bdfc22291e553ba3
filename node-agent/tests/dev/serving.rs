//! Pods on loopback ports: what is printed, what is served, and what a reload changes.

use crate::support::{Connection, Folder, Server, address, get, pod_and_profile, token};

#[test]
fn a_pod_is_served_where_the_report_says_and_at_the_same_port_the_next_time() {
    let folder = Folder::new("ports");
    folder.write("pods.yaml", &pod_and_profile(""));
    let (server, first) = Server::start(&folder, &["-f", "pods.yaml"]);
    let place = address(&first, "default/web", "ec2").unwrap();
    assert_eq!(address(&first, "default/web", "ecs"), None);
    let (status, id) = get(&place, "/latest/meta-data/instance-id");
    assert_eq!(status, 200);
    assert_eq!(server.terminate(), Some(0));
    let (server, second) = Server::start(&folder, &["-f", "pods.yaml"]);
    assert_eq!(address(&second, "default/web", "ec2").unwrap(), place);
    assert_eq!(get(&place, "/latest/meta-data/instance-id"), (200, id));
    drop(server);
}

#[test]
fn a_token_survives_a_restart_of_the_server() {
    let folder = Folder::new("token");
    folder.write("pods.yaml", &pod_and_profile(""));
    let (server, report) = Server::start(&folder, &["-f", "pods.yaml"]);
    let place = address(&report, "default/web", "ec2").unwrap();
    let token = token(&place);
    assert_eq!(server.terminate(), Some(0));
    let (_server, _) = Server::start(&folder, &["-f", "pods.yaml"]);
    let (status, _) = Connection::open(&place).ask("GET /latest/meta-data/", &[token]).unwrap();
    assert_eq!(status, 200);
}

#[test]
fn an_edit_is_felt_on_a_kept_connection_and_a_mistake_changes_nothing() {
    let folder = Folder::new("reload");
    let item = |value: &str| pod_and_profile(&format!("  metadata: [{{dialect: ec2, path: a, value: {value}}}]\n"));
    folder.write("pods.yaml", &item("one"));
    let (server, report) = Server::start(&folder, &["-f", "."]);
    let place = address(&report, "default/web", "ec2").unwrap();
    let token = token(&place);
    let mut kept = Connection::open(&place);
    let mut ask = || kept.ask("GET /latest/meta-data/a", std::slice::from_ref(&token));
    assert_eq!(ask().unwrap().1, "one");

    folder.write("pods.yaml", &item("two"));
    server.says("reloaded: default/web changed");
    assert_eq!(ask().unwrap().1, "two");

    folder.write("pods.yaml", &pod_and_profile("  nonsense: true\n"));
    server.says("spec.nonsense");
    server.says("still serving what was read before");
    assert_eq!(ask().unwrap().1, "two");

    folder.write("pods.yaml", &item("three"));
    server.says("reloaded: default/web changed");
    assert_eq!(ask().unwrap().1, "three");
}

#[test]
fn a_pod_that_is_deleted_is_gone_from_its_port_and_from_kept_connections() {
    let folder = Folder::new("delete");
    let other = pod_and_profile("").replace("name: web", "name: other").replace("app: web", "app: other");
    folder.write("web.yaml", &pod_and_profile(""));
    folder.write("other.yaml", &other);
    let (server, report) = Server::start(&folder, &["-f", "."]);
    let place = address(&report, "default/web", "ec2").unwrap();
    let token = token(&place);
    let mut kept = Connection::open(&place);
    assert_eq!(kept.ask("GET /latest/", std::slice::from_ref(&token)).unwrap().0, 200);
    folder.write("web.yaml", "");
    server.says("reloaded: default/web is gone");
    assert_eq!(address(&server.report(), "default/web", "ec2"), None);
    assert!(std::net::TcpStream::connect(&place).is_err(), "the port is closed");
    assert_eq!(kept.ask("GET /latest/", std::slice::from_ref(&token)).unwrap().0, 503);
    assert_eq!(kept.ask("GET /latest/", std::slice::from_ref(&token)), None, "the connection is dead");
}

#[test]
fn a_pod_without_a_profile_is_refused_on_every_path_and_the_terminal_says_why() {
    let folder = Folder::new("denied");
    folder.write(
        "pods.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: a, image: a}]}}",
    );
    let (server, report) = Server::start(&folder, &["-f", "pods.yaml"]);
    server.says("default/web is denied on every path: no MetadataProfile matches it");
    for dialect in ["ec2", "ecs"] {
        let place = address(&report, "default/web", dialect).unwrap();
        let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60".to_owned();
        assert_eq!(Connection::open(&place).ask("PUT /latest/api/token", &[ttl]).unwrap().0, 403);
        assert_eq!(Connection::open(&place).ask("GET /", &[]).unwrap().0, 403);
    }
}

#[test]
fn a_refused_request_says_why_and_what_to_change_and_no_line_holds_a_secret() {
    let folder = Folder::new("why");
    let secret = "---\n{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {accessKeyId: AKIAX, secretAccessKey: hunter2}}\n";
    let role = "  roles: [{name: r, dialect: ec2, secret: {name: s}}]\n";
    folder.write("pods.yaml", &format!("{}{secret}", pod_and_profile(role)));
    let (server, report) = Server::start(&folder, &["-f", "pods.yaml", "--log", "debug"]);
    let place = address(&report, "default/web", "ec2").unwrap();
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 0".to_owned();
    assert_eq!(Connection::open(&place).ask("PUT /latest/api/token", &[ttl]).unwrap().0, 400);
    assert!(server.says("status=400").contains("not a number from 1 to 21600"));
    let (status, keys) = get(&place, "/latest/meta-data/iam/security-credentials/r");
    assert!(status == 200 && keys.contains("hunter2"), "{keys}");
    let line = server.says("path=\"credentials\"");
    assert!(line.contains("pod=default/web") && line.contains("token=true"), "{line}");
    assert!(!line.contains("hunter2") && !line.contains("security-credentials/r"), "{line}");
    assert_eq!(Connection::open(&place).ask("GET /latest/meta-data/", &[]).unwrap().0, 401);
    assert!(server.says("status=401").contains("httpTokens"));
}

#[test]
fn an_address_can_be_chosen_and_over_ipv6_the_profile_must_allow_it() {
    let folder = Folder::new("listen");
    folder.write("pods.yaml", &pod_and_profile(""));
    let (server, report) = Server::start(&folder, &["-f", "pods.yaml", "--listen", "web/ec2=[::1]:0"]);
    let place = address(&report, "default/web", "ec2").unwrap();
    assert!(place.starts_with("[::1]:"), "{place}");
    assert_eq!(Connection::open(&place).ask("GET /latest/", &[]).unwrap().0, 403);
    assert!(server.says("status=403").contains("httpProtocolIpv6"));
    folder.write("pods.yaml", &pod_and_profile("  metadataOptions: {httpProtocolIpv6: enabled}\n"));
    server.says("reloaded");
    assert_eq!(get(&place, "/latest/").0, 200);
}

#[test]
fn an_address_for_a_pod_that_is_not_there_is_refused_with_the_names_that_are() {
    let folder = Folder::new("listen-nobody");
    folder.write("pods.yaml", &pod_and_profile(""));
    let output = folder.run(&["-f", "pods.yaml", "--listen", "nobody/ec2=127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no default/nobody/ec2") && errors.contains("default/web/ec2"), "{errors}");
}

#[test]
fn a_web_page_that_has_its_name_point_here_gets_nothing() {
    let folder = Folder::new("rebinding");
    folder.write("pods.yaml", &pod_and_profile("  metadataOptions: {httpTokens: optional}\n"));
    let (_server, report) = Server::start(&folder, &["-f", "pods.yaml"]);
    let place = address(&report, "default/web", "ec2").unwrap();
    let ask = |host: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&place).unwrap();
        write!(stream, "GET /latest/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(ask("evil.example:20000"), 400);
    for host in ["127.0.0.1:20000", "localhost:20000", "[::1]:20000", "169.254.169.254"] {
        assert_eq!(ask(host), 200, "{host}");
    }
}

#[test]
fn the_admin_port_has_health_readiness_and_metrics_and_nothing_of_a_pod() {
    let folder = Folder::new("admin");
    folder.write("pods.yaml", &pod_and_profile(""));
    let (_server, report) = Server::start(&folder, &["-f", "pods.yaml"]);
    let place = address(&report, "default/web", "ec2").unwrap();
    get(&place, "/latest/meta-data/some-path-of-the-client-s-choosing");
    let ask =
        |path: &str| Connection::open(report["admin"].as_str().unwrap()).ask(&format!("GET {path}"), &[]).unwrap();
    assert_eq!(ask("/healthz").0, 200);
    assert_eq!(ask("/latest/meta-data/").0, 404);
    let (status, metrics) = ask("/metrics");
    assert_eq!(status, 200);
    let count = "podmeta_agent_requests_total{dialect=\"ec2\",path=\"meta-data\",status=\"404\",token=\"yes\"} 1";
    assert!(metrics.contains(count), "{metrics}");
    assert!(metrics.contains("podmeta_agent_tokens_issued_total{dialect=\"ec2\"} 1"), "{metrics}");
    assert!(!metrics.contains("choosing") && !metrics.contains("web"), "{metrics}");
}

#[cfg(target_os = "linux")]
#[test]
fn only_users_who_may_ask_are_answered() {
    let folder = Folder::new("users");
    let me = nix::unistd::getuid().as_raw();
    let write = |users: &str| folder.write("pods.yaml", &pod_and_profile(users));
    write(&format!("  deniedUsers: [{me}]\n"));
    let (server, report) = Server::start(&folder, &["-f", "pods.yaml"]);
    let place = address(&report, "default/web", "ec2").unwrap();
    assert_eq!(Connection::open(&place).ask("GET /latest/", &[]).unwrap().0, 403);
    assert!(server.says("status=403").contains("deniedUsers"));
    write(&format!("  allowedUsers: [{me}]\n"));
    server.says("reloaded");
    assert_eq!(get(&place, "/latest/").0, 200);
    write(&format!("  allowedUsers: [{}]\n", me + 1));
    server.says("reloaded");
    assert_eq!(Connection::open(&place).ask("GET /latest/", &[]).unwrap().0, 403);
}

#[test]
fn a_pod_has_as_many_connections_as_its_profile_allows() {
    let folder = Folder::new("connections");
    folder.write("pods.yaml", &pod_and_profile("  limits: {connections: 2}\n"));
    let (server, report) = Server::start(&folder, &["-f", "pods.yaml"]);
    let place = address(&report, "default/web", "ec2").unwrap();
    let mut open = [Connection::open(&place), Connection::open(&place)];
    for connection in &mut open {
        assert_eq!(connection.ask("GET /latest/", &[]).unwrap().0, 401);
    }
    assert_eq!(Connection::open(&place).ask("GET /latest/", &[]), None);
    assert!(server.says("spec.limits.connections").contains("default/web"));
    let [first, mut second] = open;
    drop(first);
    assert_eq!(second.ask("GET /latest/", &[]).unwrap().0, 401);
    // The place is free once the server has seen the end of the first connection.
    while Connection::open(&place).ask("GET /latest/", &[]).is_none() {}
}
