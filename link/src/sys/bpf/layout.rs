//! Commands of `bpf(2)`, and the layouts of their arguments. Each layout has the fields up to the last one in use, without
//! padding between them. The kernel reads the missing ones as zero.
//!
//! Source: linux/bpf.h.

use super::ProgramTag;

#[derive(Clone, Copy)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookupElem = 1,
    MapUpdateElem = 2,
    MapDeleteElem = 3,
    MapGetNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgGetFdById = 13,
    ObjGetInfoByFd = 15,
    ProgQuery = 16,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

pub(super) const BPF_MAP_TYPE_HASH: u32 = 1;
pub(super) const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
pub(super) const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
pub(super) const BPF_CGROUP_INET4_CONNECT: u32 = 10;
pub(super) const BPF_CGROUP_INET6_CONNECT: u32 = 11;
pub(super) const BPF_LINK_TYPE_CGROUP: u32 = 3;
pub(super) const BPF_TCX_EGRESS: u32 = 47;
pub(super) const BPF_LINK_TYPE_TCX: u32 = 11;
pub(super) const BPF_F_BEFORE: u32 = 1 << 3;

#[repr(C)]
pub(super) struct MapCreate {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
}

#[repr(C)]
pub(super) struct MapElement {
    pub(super) map_fd: u32,
    pub(super) padding: u32,
    pub(super) key: u64,
    /// The value, or the next key.
    pub(super) value: u64,
    pub(super) flags: u64,
}

#[repr(C)]
pub(super) struct ProgLoad {
    pub(super) prog_type: u32,
    pub(super) insn_cnt: u32,
    pub(super) insns: u64,
    pub(super) license: u64,
    pub(super) log_level: u32,
    pub(super) log_size: u32,
    pub(super) log_buf: u64,
    pub(super) kern_version: u32,
    pub(super) prog_flags: u32,
    pub(super) prog_name: [u8; 16],
    pub(super) prog_ifindex: u32,
    pub(super) expected_attach_type: u32,
}

#[repr(C)]
pub(super) struct ObjectPath {
    pub(super) pathname: u64,
    pub(super) bpf_fd: u32,
    pub(super) file_flags: u32,
}

#[repr(C)]
pub(super) struct LinkCreate {
    pub(super) prog_fd: u32,
    pub(super) target_ifindex: u32,
    pub(super) attach_type: u32,
    pub(super) flags: u32,
}

#[repr(C)]
pub(super) struct LinkUpdate {
    pub(super) link_fd: u32,
    pub(super) new_prog_fd: u32,
}

#[repr(C)]
pub(super) struct ProgQuery {
    pub(super) target_ifindex: u32,
    pub(super) attach_type: u32,
    pub(super) query_flags: u32,
    pub(super) attach_flags: u32,
    pub(super) prog_ids: u64,
    /// Capacity of the arrays. The kernel writes the number of programs.
    pub(super) count: u32,
    pub(super) padding: u32,
    pub(super) prog_attach_flags: u64,
    pub(super) link_ids: u64,
    pub(super) link_attach_flags: u64,
    pub(super) revision: u64,
}

#[repr(C)]
pub(super) struct InfoRequest {
    pub(super) bpf_fd: u32,
    pub(super) info_len: u32,
    pub(super) info: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct RawProgramInfo {
    pub(super) prog_type: u32,
    pub(super) id: u32,
    pub(super) tag: ProgramTag,
    pub(super) jited_prog_len: u32,
    pub(super) xlated_prog_len: u32,
    pub(super) jited_prog_insns: u64,
    pub(super) xlated_prog_insns: u64,
    pub(super) load_time: u64,
    pub(super) created_by_uid: u32,
    /// Capacity of the array at `map_ids`. The kernel writes the number of maps.
    pub(super) nr_map_ids: u32,
    pub(super) map_ids: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct RawMapInfo {
    pub(super) map_type: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct RawLinkInfo {
    pub(super) link_type: u32,
    pub(super) id: u32,
    pub(super) prog_id: u32,
    pub(super) padding: u32,
    pub(super) ifindex: u32,
    pub(super) attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct RawCgroupLinkInfo {
    pub(super) link_type: u32,
    pub(super) id: u32,
    pub(super) prog_id: u32,
    pub(super) padding: u32,
    pub(super) cgroup_id: u64,
    pub(super) attach_type: u32,
    pub(super) end_padding: u32,
}

/// Structures that the kernel fills with information: integers only, without padding.
pub(super) trait Info: Default {}
impl Info for RawProgramInfo {}
impl Info for RawLinkInfo {}
impl Info for RawMapInfo {}
impl Info for RawCgroupLinkInfo {}
