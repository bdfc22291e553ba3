//! Attaches the program as a filter of the qdisc clsact, for kernels without tcx. The filter stays while its interface exists.
//! It has priority 1, which the kernel runs first. Another filter precedes it only if it has the same priority and is added later.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::libc;
use rtnetlink::Error;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::loaded::LoadedProgram;
use super::{ProgramState, first};
use crate::route_socket::{RouteSocket, errno};

/// Name of the filter.
const NAME: &str = "podmeta";

/// Handle of the filter among those of its priority. Network plugins start with 1.
const HANDLE: u32 = 0x706d;

/// Priority of the filter: before all others.
const PRIORITY: u32 = 1;

/// All protocols. Source: linux/if_ether.h.
const ETH_P_ALL: u16 = 0x0003;

/// Attaches or replaces the program at all interfaces.
pub(super) async fn ensure_all(
    socket: &RouteSocket,
    program: &mut LoadedProgram,
    interfaces: &BTreeSet<u32>,
) -> Vec<(u32, Result<ProgramState>)> {
    let mut results = Vec::new();
    for interface in interfaces {
        results.push((*interface, ensure(socket, program, *interface).await));
    }
    results
}

async fn ensure(socket: &RouteSocket, program: &mut LoadedProgram, interface: u32) -> Result<ProgramState> {
    let attached = attached(socket, interface).await.context("cannot read the filters")?;
    if attached.is_some_and(|attached| program.is_equal(attached)) {
        return Ok(ProgramState::Unchanged);
    }
    let added = async {
        match send(socket, RouteNetlinkMessage::NewQueueDiscipline(qdisc(interface)), NLM_F_CREATE | NLM_F_EXCL).await {
            Err(error) if errno(&error) == Some(libc::EEXIST) => {}
            result => result?,
        }
        let filter = filter(interface, program.first_copy().as_raw_fd().unsigned_abs());
        send(socket, RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE).await
    };
    match added.await {
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(ProgramState::InterfaceDeleted),
        result => result.map(|()| ProgramState::Attached).context(
            "cannot add a filter to the qdisc clsact; the kernel needs CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, and \
             other programs must not use priority 1 for other kinds of filters",
        ),
    }
}

/// Removes the filters of all interfaces, and each qdisc that has no filter then. Skips interfaces that are deleted meanwhile. A
/// failure for one interface does not keep the filters of the others from being removed.
pub(super) async fn remove_all(socket: &RouteSocket, interfaces: &BTreeSet<u32>) -> Result<()> {
    let mut errors = Vec::new();
    for interface in interfaces {
        match remove(socket, *interface).await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => {
                let context = format!("cannot remove the filter of the interface with index {interface}");
                errors.push(anyhow::Error::new(error).context(context));
            }
            _ => {}
        }
    }
    first(errors)
}

async fn remove(socket: &RouteSocket, interface: u32) -> Result<(), Error> {
    if attached(socket, interface).await?.is_none() {
        return Ok(());
    }
    send(socket, RouteNetlinkMessage::DelTrafficFilter(header(interface)), 0).await?;
    for parent in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        if !filters(socket, interface, parent).await?.is_empty() {
            return Ok(());
        }
    }
    send(socket, RouteNetlinkMessage::DelQueueDiscipline(qdisc(interface)), 0).await
}

/// Returns the kernel ID of the program of our filter, or `None` if there is no filter.
async fn attached(socket: &RouteSocket, interface: u32) -> Result<Option<u32>, Error> {
    let filters = filters(socket, interface, TcHandle::MIN_EGRESS).await?;
    Ok(filters.iter().find_map(program_of))
}

/// Returns the kernel ID of the program if a filter is ours.
fn program_of(filter: &TcMessage) -> Option<u32> {
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let is_ours =
        |option: &TcOption| matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(name)) if name == NAME);
    options.iter().find(|option| is_ours(option))?;
    options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })
}

/// Returns the filters of a hook. An interface without the qdisc and a kernel without classifiers have none.
async fn filters(socket: &RouteSocket, interface: u32, parent: u16) -> Result<Vec<TcMessage>, Error> {
    let request = socket.traffic_filter(interface.cast_signed()).get();
    let request = if parent == TcHandle::MIN_EGRESS { request.egress() } else { request.ingress() };
    match request.execute().try_collect::<Vec<_>>().await {
        Err(error) if matches!(errno(&error), Some(libc::EINVAL | libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        filters => filters,
    }
}

fn qdisc(interface: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = interface.cast_signed();
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

/// Returns a message that names our filter.
fn header(interface: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = interface.cast_signed();
    message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor: TcHandle::MIN_EGRESS };
    message.header.handle = TcHandle::from(HANDLE);
    message.header.info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

fn filter(interface: u32, program: u32) -> TcMessage {
    let mut message = header(interface);
    let options = [
        TcFilterBpfOption::ProgFd(program),
        TcFilterBpfOption::ProgName(NAME.to_owned()),
        // The result of the program is the verdict.
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).into()));
    message
}

async fn send(socket: &RouteSocket, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut responses = rtnetlink::Handle::clone(socket).request(request)?;
    while let Some(response) = responses.next().await {
        if let NetlinkPayload::Error(error) = response.payload
            && error.code.is_some()
        {
            return Err(Error::NetlinkError(error));
        }
    }
    Ok(())
}
