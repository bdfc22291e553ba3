//! Guard 2: a table of nftables that drops forwarded traffic to the service addresses, before connection tracking and
//! when it is forwarded.
//!
//! ```text
//! table inet podmeta {
//!     chain arriving  { type filter hook prerouting priority -310; }   not from lo, TCP port 80
//!     chain forwarded { type filter hook forward priority -310; }      all traffic
//! }
//! ```

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate, InetHookNumber, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage, Verdict,
    VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::netns::Netns;
use crate::service::{self, SERVICE_PORT};

/// Name of the table.
const TABLE: &str = "podmeta";

/// Priority of the chains: before connection tracking (-200) and before the raw tables of others (-300).
const PRIORITY: i32 = -310;

/// Verdict that drops a packet. Source: `NF_DROP` in linux/netfilter.h.
const NF_DROP: u32 = 0;

/// Policy that accepts. Source: `NF_ACCEPT` in linux/netfilter.h.
const NF_ACCEPT: u32 = 1;

/// Subsystem of nftables in the control messages of a batch. Source: `NFNL_SUBSYS_NFTABLES`.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// Base of a payload expression. Source: `enum nft_payload_bases`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Values of `meta nfproto` and `meta l4proto`.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// Interface index of the loopback interface.
const LOOPBACK: u32 = 1;

/// A chain of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    /// Packets that arrive at the node, TCP port 80 only.
    Arriving,
    /// Packets that the node forwards.
    Forwarded,
}

impl Chain {
    const ALL: [Self; 2] = [Self::Arriving, Self::Forwarded];

    fn name(self) -> &'static str {
        match self {
            Self::Arriving => "arriving",
            Self::Forwarded => "forwarded",
        }
    }

    fn hook(self) -> InetHookNumber {
        match self {
            Self::Arriving => InetHookNumber::PreRouting,
            Self::Forwarded => InetHookNumber::Forward,
        }
    }
}

/// Replaces the table unless it is complete. Returns the number of tables that were written: 0 or 1.
pub(super) fn ensure(host: &Netns) -> io::Result<usize> {
    let socket = open(host)?;
    if is_complete(&socket)? {
        return Ok(0);
    }
    let mut batch = vec![table(Change::Create), table(Change::Delete), table(Change::Create)];
    for chain in Chain::ALL {
        batch.push(nftables(chain_message(chain), NLM_F_CREATE));
        let rules = service::addresses().into_iter().map(|address| rule(chain, address));
        batch.extend(rules.map(|rule| nftables(NfTablesMessage::NewRule(rule), NLM_F_CREATE | NLM_F_APPEND)));
    }
    commit(&socket, batch)?;
    Ok(1)
}

/// Removes the table if it exists.
pub(super) fn remove(host: &Netns) -> io::Result<()> {
    commit(&open(host)?, vec![table(Change::Create), table(Change::Delete)])
}

/// Opens a netfilter socket in a namespace.
fn open(host: &Netns) -> io::Result<Socket> {
    host.run(|| {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(socket)
    })
}

/// Returns true if the table has exactly the rules of [`ensure`], in their order. A foreign rule before ours could accept
/// a packet.
fn is_complete(socket: &Socket) -> io::Result<bool> {
    let found = dump(socket)?;
    let rules = |chain| service::addresses().into_iter().map(move |address| rule(chain, address));
    let wanted = Chain::ALL.into_iter().flat_map(rules).collect::<Vec<_>>();
    Ok(found.iter().map(essence).eq(wanted.iter().map(essence)))
}

/// Returns the rules of the table.
fn dump(socket: &Socket) -> io::Result<Vec<RuleMessage>> {
    let table = RuleMessage { attributes: vec![RuleAttribute::Table(TABLE.to_owned())] };
    let mut request = nftables(NfTablesMessage::GetRule(table), NLM_F_DUMP);
    send(socket, std::slice::from_mut(&mut request))?;
    let mut rules = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for message in messages(&bytes) {
            match message?.payload {
                NetlinkPayload::Done(_) => return Ok(rules),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: netlink_packet_netfilter::NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)),
                    ..
                }) => {
                    rules.push(rule);
                }
                _ => {}
            }
        }
    }
}

/// Returns the chain and the expressions of a rule, with the attributes in the kernel's order. The kernel adds a handle, a position and the values of counters.
fn essence(rule: &RuleMessage) -> (Option<&str>, Vec<String>) {
    let chain = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Chain(name) => Some(name.as_str()),
        _ => None,
    });
    let expressions = rule.attributes.iter().filter_map(|attribute| match attribute {
        RuleAttribute::Expressions(expressions) => Some(expressions),
        _ => None,
    });
    let text = expressions.flatten().map(|expression| format!("{expression:?}"));
    (chain, text.filter(|text| !text.contains("\"counter\"")).collect())
}

/// A change of the table.
#[derive(Clone, Copy)]
enum Change {
    Create,
    Delete,
}

fn table(change: Change) -> NetlinkMessage<NetfilterMessage> {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    match change {
        Change::Create => nftables(NfTablesMessage::NewTable(table), NLM_F_CREATE),
        Change::Delete => nftables(NfTablesMessage::DeleteTable(table), 0),
    }
}

fn chain_message(chain: Chain) -> NfTablesMessage {
    NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(chain.name().to_owned()),
            ChainAttribute::Hook(vec![Hook::Number(chain.hook().into()), Hook::Priority(PRIORITY.cast_unsigned())]),
            ChainAttribute::Policy(NF_ACCEPT),
            ChainAttribute::Type("filter".to_owned()),
        ],
    })
}

/// Returns the rule that drops packets to an address.
fn rule(chain: Chain, address: IpAddr) -> RuleMessage {
    let mut expressions = Vec::new();
    if chain == Chain::Arriving {
        expressions.extend([meta(MetaKey::Iif), compare(Operator::NotEqual, LOOPBACK.to_ne_bytes().to_vec())]);
    }
    let (family, offset, bytes) = match address {
        IpAddr::V4(address) => (NFPROTO_IPV4, 16, address.octets().to_vec()),
        IpAddr::V6(address) => (NFPROTO_IPV6, 24, address.octets().to_vec()),
    };
    expressions.extend([meta(MetaKey::Nfproto), compare(Operator::Equal, vec![family])]);
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    expressions.extend([payload(NETWORK_HEADER, offset, length), compare(Operator::Equal, bytes)]);
    if chain == Chain::Arriving {
        expressions.extend([meta(MetaKey::L4Proto), compare(Operator::Equal, vec![IPPROTO_TCP])]);
        let port = SERVICE_PORT.to_be_bytes().to_vec();
        expressions.extend([payload(TRANSPORT_HEADER, 2, 2), compare(Operator::Equal, port)]);
    }
    expressions.push(Expressions::Other { expression_type: "counter".to_owned(), attributes: Vec::new() });
    expressions.push(Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))])),
    ]));
    RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(chain.name().to_owned()),
            RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
        ],
    }
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

fn payload(base: u32, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

fn nftables(message: NfTablesMessage, flags: u16) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST | flags;
    message
}

fn control(message: ControlMessage) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST;
    message
}

/// Sends changes as one transaction and waits for the result: the kernel applies all of them or none.
fn commit(socket: &Socket, changes: Vec<NetlinkMessage<NetfilterMessage>>) -> io::Result<()> {
    let mut batch = vec![control(ControlMessage::BatchBegin)];
    batch.extend(changes);
    // The response to the last change arrives after the commit.
    if let Some(last) = batch.last_mut() {
        last.header.flags |= NLM_F_ACK;
    }
    batch.push(control(ControlMessage::BatchEnd));
    send(socket, &mut batch)?;
    let (bytes, _) = socket.recv_from_full()?;
    for message in messages(&bytes) {
        if let NetlinkPayload::Error(error) = message?.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}

/// Sends messages in one datagram.
fn send(socket: &Socket, batch: &mut [NetlinkMessage<NetfilterMessage>]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (message, sequence) in batch.iter_mut().zip(1_u32..) {
        message.header.sequence_number = sequence;
        message.finalize();
        let mut part = vec![0; message.buffer_len()];
        message.serialize(&mut part);
        bytes.extend(part);
    }
    socket.send(&bytes, 0).map(drop)
}

/// Iterates over the messages of a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<NetlinkMessage<NetfilterMessage>>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?);
        let length = usize::try_from(length).ok().filter(|length| *length >= 16 && *length <= bytes.len())?;
        let (message, rest) = bytes.split_at(length);
        // Messages are aligned to four bytes.
        bytes = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(message).map_err(io::Error::other))
    })
}
