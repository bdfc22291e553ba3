//! `--pod NAME -- COMMAND`: a program that knows nothing of podmeta asks the clouds' own addresses.

use crate::support::{Folder, pod_and_profile};

/// Asks an address with nothing but bash.
const ASK: &str = r#"
exec 3<>"/dev/tcp/$1/80" || exit 9
printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' "$2" >&3
cat <&3
"#;

fn ask(folder: &Folder, address: &str, path: &str) -> std::process::Output {
    folder.run(&["-f", "pods.yaml", "--pod", "web", "--", "bash", "-c", ASK, "bash", address, path])
}

#[test]
fn a_command_is_answered_at_the_real_addresses_as_that_pod() {
    let folder = Folder::new("real");
    let optional = "  metadataOptions: {httpTokens: optional, httpProtocolIpv6: enabled}\n";
    folder.write("pods.yaml", &pod_and_profile(optional).replace("[ec2]", "[ec2, ecs]"));
    for (address, path, expected) in [
        ("169.254.169.254", "/latest/", "dynamic\nmeta-data\nuser-data"),
        ("fd00:ec2::254", "/latest/", "dynamic\nmeta-data\nuser-data"),
        ("100.100.100.200", "/", "2016-01-01\nlatest"),
    ] {
        let output = ask(&folder, address, path);
        let answer = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(expected), "{address}: {answer}{errors}");
    }
}

#[test]
fn the_command_s_exit_code_is_the_server_s() {
    let folder = Folder::new("exit-code");
    folder.write("pods.yaml", &pod_and_profile(""));
    assert_eq!(
        folder.run(&["-f", "pods.yaml", "--pod", "default/web", "--", "sh", "-c", "exit 7"]).status.code(),
        Some(7)
    );
    let killed = folder.run(&["-f", "pods.yaml", "--pod", "web", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(128 + 9));
    let missing = folder.run(&["-f", "pods.yaml", "--pod", "web", "--", "no-such-program"]);
    assert_ne!(missing.status.code(), Some(0));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("cannot run no-such-program"));
}

#[test]
fn a_pod_that_is_not_there_is_refused_with_the_names_that_are() {
    let folder = Folder::new("no-pod");
    folder.write("pods.yaml", &pod_and_profile(""));
    let output = folder.run(&["-f", "pods.yaml", "--pod", "db", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no pod default/db") && errors.contains("default/web"), "{errors}");
}

#[test]
fn who_asks_is_known_in_the_namespace_too() {
    let folder = Folder::new("owner");
    let me = nix::unistd::getuid().as_raw();
    folder.write("pods.yaml", &pod_and_profile(&format!("  deniedUsers: [{me}]\n")));
    let answer = String::from_utf8(ask(&folder, "169.254.169.254", "/latest/").stdout).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[test]
fn the_command_ends_with_the_server() {
    use std::io::Read as _;
    let folder = Folder::new("tied");
    folder.write("pods.yaml", &pod_and_profile(""));
    let mut command =
        folder.command(&["-f", "pods.yaml", "--pod", "web", "--", "sh", "-c", "echo started; exec sleep 1000"]);
    let mut agent = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut output = agent.stdout.take().unwrap();
    let mut started = [0; 8];
    output.read_exact(&mut started).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    // The pipe ends once nobody holds its other end: neither the agent nor the command.
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert_eq!((&started[..], &rest[..]), (&b"started\n"[..], &b""[..]));
}
