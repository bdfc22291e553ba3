//! `--pod NAME -- COMMAND`: a program sends requests to the real service addresses.

use crate::support::{DevDirectory, pod_and_profile};

/// Sends a request with bash only.
const REQUEST: &str = r#"
exec 3<>"/dev/tcp/$1/80" || exit 9
printf 'GET %s HTTP/1.1\r\n%sConnection: close\r\n\r\n' "$2" "$3" >&3
cat <&3
"#;

fn request(directory: &DevDirectory, address: &str, path: &str) -> std::process::Output {
    request_with(directory, address, path, &format!("Host: {address}\r\n"))
}

fn request_with(directory: &DevDirectory, address: &str, path: &str, headers: &str) -> std::process::Output {
    directory.run(&["-f", "pods.yaml", "--pod", "web", "--", "bash", "-c", REQUEST, "bash", address, path, headers])
}

#[test]
fn command_gets_the_pods_responses_at_the_service_addresses() {
    let directory = DevDirectory::new("real");
    let optional = "  metadataOptions: {httpTokens: optional, httpProtocolIpv6: enabled}\n";
    directory.write("pods.yaml", &pod_and_profile(optional).replace("[ec2]", "[ec2, ecs]"));
    for (address, path, expected) in [
        ("169.254.169.254", "/latest/", "dynamic\nmeta-data\nuser-data"),
        ("fd00:ec2::254", "/latest/", "dynamic\nmeta-data\nuser-data"),
        ("100.100.100.200", "/", "2016-01-01\nlatest"),
    ] {
        let output = request(&directory, address, path);
        let response = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with(expected),
            "{address}: {response}{errors}"
        );
    }
}

#[test]
fn link_of_a_pod_serves_heads_of_shipped_clients_and_rejects_other_names() {
    let directory = DevDirectory::new("link-hosts");
    directory.write("pods.yaml", &pod_and_profile("  metadataOptions: {httpTokens: optional}\n"));
    for (headers, status) in [
        ("", "200"),
        ("Host:\r\n", "200"),
        ("Host: fd00:ec2::254\r\n", "200"),
        ("Host: instance-data\r\n", "200"),
        ("Host: rebind.example\r\n", "400"),
        ("Host: localhost\r\n", "400"),
    ] {
        let output = request_with(&directory, "169.254.169.254", "/latest/", headers);
        let response = String::from_utf8(output.stdout).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?}: {response}");
    }
}

#[test]
fn exit_code_of_the_command_is_returned() {
    let directory = DevDirectory::new("exit-code");
    directory.write("pods.yaml", &pod_and_profile(""));
    assert_eq!(
        directory.run(&["-f", "pods.yaml", "--pod", "default/web", "--", "sh", "-c", "exit 7"]).status.code(),
        Some(7)
    );
    let killed = directory.run(&["-f", "pods.yaml", "--pod", "web", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(128 + 9));
    let missing = directory.run(&["-f", "pods.yaml", "--pod", "web", "--", "no-such-program"]);
    assert_ne!(missing.status.code(), Some(0));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("cannot run no-such-program"));
}

#[test]
fn unknown_pod_is_an_error_with_the_known_ones() {
    let directory = DevDirectory::new("no-pod");
    directory.write("pods.yaml", &pod_and_profile(""));
    let output = directory.run(&["-f", "pods.yaml", "--pod", "db", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no pod default/db") && errors.contains("default/web"), "{errors}");
}

#[test]
fn denied_user_gets_403_in_the_namespace() {
    let directory = DevDirectory::new("owner");
    let me = nix::unistd::getuid().as_raw();
    directory.write("pods.yaml", &pod_and_profile(&format!("  deniedUsers: [{me}]\n")));
    let response = String::from_utf8(request(&directory, "169.254.169.254", "/latest/").stdout).unwrap();
    assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
}

#[test]
fn command_ends_with_the_agent() {
    use std::io::Read as _;
    let directory = DevDirectory::new("tied");
    directory.write("pods.yaml", &pod_and_profile(""));
    let mut command =
        directory.command(&["-f", "pods.yaml", "--pod", "web", "--", "sh", "-c", "echo started; exec sleep 1000"]);
    let mut agent = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut output = agent.stdout.take().unwrap();
    let mut started = [0; 8];
    output.read_exact(&mut started).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    // The pipe closes when neither the agent nor the command holds its other end.
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert_eq!((&started[..], &rest[..]), (&b"started\n"[..], &b""[..]));
}
