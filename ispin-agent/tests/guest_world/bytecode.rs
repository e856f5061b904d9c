//! The guest in an interpreter: the object's own instructions, executed one by one in user space, and counted.
//!
//! Needs no privileges. What it cannot tell is whether a kernel's verifier accepts the programs, and what its JIT makes of
//! them; x86-64 has about one instruction for each of these.

use std::collections::HashMap;

use ispin_agent::bpf::object::OBJECT;
use ispin_common::event::{Event, EventKind, NR_LEVELS};
use ispin_common::guest::{GuestLane, GuestRing, lane_key};
use ispin_common::incident::Incident;
use object::read::elf::{ElfFile64, ElfSymbol64};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolIndex};

use super::{Lane, World};

/// What the kernel puts in place of a look-up in an array (`array_map_gen_lookup`), and of asking for the CPU's number.
const LOOKUP: u64 = 6;
const CPU_NUMBER: u64 = 3;

const STACK: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Insn {
    op: u8,
    dst: usize,
    src: usize,
    off: i16,
    imm: i32,
    /// What a relocation refers to.
    target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    None,
    Map(usize),
    Data(u64),
    /// Index of an instruction of `functions`.
    Function(usize),
}

struct Map {
    name: String,
    value_size: usize,
    entries: usize,
    memory: Memory,
}

/// Aligned memory that instructions may use.
struct Memory {
    words: Box<[u128]>,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        // One line more, so that the first byte used can be aligned to 64.
        Self { words: vec![0; bytes.div_ceil(16) + 4].into() }
    }

    fn start(&self) -> u64 {
        (self.words.as_ptr() as u64).next_multiple_of(64)
    }

    fn end(&self) -> u64 {
        self.words.as_ptr_range().end as u64
    }
}

/// See the module.
pub struct BytecodeWorld {
    programs: HashMap<&'static str, Vec<Insn>>,
    functions: Vec<Insn>,
    maps: Vec<Map>,
    constants: Memory,
    variables: Memory,
    cpus: u32,
    /// The CPU on which the program runs.
    cpu: u32,
    executed: u64,
}

const PROGRAMS: [(EventKind, &str); 4] = [
    (EventKind::Take, "ispin_take"),
    (EventKind::Acquire, "ispin_acquire"),
    (EventKind::Release, "ispin_release"),
    (EventKind::Incapable, "ispin_incapable"),
];

impl BytecodeWorld {
    /// Loads the embedded object for a guest with so many vCPUs.
    pub fn new(cpus: u32) -> Self {
        let file = ElfFile64::<Endianness>::parse(OBJECT).expect("an ELF file");
        let mut maps = read_maps(&file);
        for map in maps.iter_mut().filter(|map| ["GUEST_LANES", "GUEST_RINGS"].contains(&map.name.as_str())) {
            map.entries = cpus as usize * NR_LEVELS;
        }
        for map in &mut maps {
            let used = map.name.starts_with("GUEST_");
            map.memory = Memory::new(if used { map.value_size * map.entries } else { 0 });
        }
        let rodata = file.section_by_name(".rodata").and_then(|s| s.data().ok()).unwrap_or_default();
        let constants = Memory::new(rodata.len());
        // SAFETY: as long as the constants.
        unsafe { std::ptr::copy_nonoverlapping(rodata.as_ptr(), constants.start() as *mut u8, rodata.len()) };
        let mut world = Self {
            programs: HashMap::new(),
            functions: vec![],
            maps,
            constants,
            variables: Memory::new(file.section_by_name(".bss").map_or(0, |s| s.size() as usize)),
            cpus,
            cpu: 0,
            executed: 0,
        };
        world.functions = world.read_code(&file, ".text");
        for (_, name) in PROGRAMS {
            let code = world.read_code(&file, &format!("raw_tp/{name}"));
            world.programs.insert(name, code);
        }
        world
    }

    /// Instructions that an event takes.
    pub fn cost(&mut self, event: &Event, vcpu: u32) -> u64 {
        let before = self.executed;
        self.feed(event, vcpu);
        self.executed - before
    }

    fn read_code(&self, file: &ElfFile64, section: &str) -> Vec<Insn> {
        let Some(section) = file.section_by_name(section) else { return vec![] };
        let data = section.data().expect("code");
        let mut code: Vec<Insn> = data
            .chunks_exact(8)
            .map(|b| Insn {
                op: b[0],
                dst: usize::from(b[1] & 15),
                src: usize::from(b[1] >> 4),
                off: i16::from_le_bytes([b[2], b[3]]),
                imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
                target: Target::None,
            })
            .collect();
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else { panic!("{relocation:?}") };
            let insn = &mut code[offset as usize / 8];
            insn.target = self.target(file, index, insn);
        }
        code
    }

    fn target(&self, file: &ElfFile64, index: SymbolIndex, insn: &Insn) -> Target {
        let symbol = file.symbol_by_index(index).expect("a symbol");
        let section = symbol.section_index().map(|i| file.section_by_index(i).expect("a section"));
        match section.and_then(|s| s.name().ok().map(str::to_owned)).as_deref() {
            Some("maps") => Target::Map(self.map_of(&symbol)),
            Some(".rodata") => Target::Data(self.constants.start() + symbol.address() + insn.imm as u64),
            Some(".bss") => Target::Data(self.variables.start() + symbol.address() + insn.imm as u64),
            Some(".text") => {
                let within = if symbol.kind() == object::SymbolKind::Section { insn.imm + 1 } else { 0 };
                Target::Function(symbol.address() as usize / 8 + within as usize)
            }
            other => panic!("a relocation to {other:?}"),
        }
    }

    fn map_of(&self, symbol: &ElfSymbol64) -> usize {
        let name = symbol.name().expect("a name");
        self.maps.iter().position(|map| map.name == name).unwrap_or_else(|| panic!("no map {name}"))
    }

    fn map(&self, name: &str) -> &Map {
        self.maps.iter().find(|map| map.name == name).unwrap_or_else(|| panic!("no map {name}"))
    }

    /// Pointer to an element of a map.
    fn element<T>(&self, name: &str, key: usize) -> *mut T {
        let map = self.map(name);
        assert!(
            key < map.entries && size_of::<T>().next_multiple_of(8) == map.value_size.next_multiple_of(8)
        );
        (map.memory.start() + (key * map.value_size.next_multiple_of(8)) as u64) as *mut T
    }

    /// The address, if `size` bytes there belong to a map, the constants, the stack or the arguments.
    fn checked(&self, address: u64, size: u64, more: &[(u64, u64)]) -> u64 {
        let memories = self.maps.iter().map(|map| &map.memory).chain([&self.constants, &self.variables]);
        let mut regions = memories.map(|m| (m.start(), m.end())).chain(more.iter().copied());
        assert!(
            regions.any(|(start, end)| start <= address && address + size <= end),
            "an access to {size} bytes at {address:#x}"
        );
        address
    }

    fn run(&mut self, program: &str, arguments: &[u64]) -> u64 {
        let code = self.programs.get(program).unwrap_or_else(|| panic!("no program {program}")).clone();
        let functions = self.functions.clone();
        let stack = Memory::new(8 * STACK);
        let mut frame = stack.start() + STACK as u64;
        let regions =
            [(stack.start(), stack.end()), (arguments.as_ptr() as u64, arguments.as_ptr_range().end as u64)];
        let mut r = [0u64; 11];
        (r[1], r[10]) = (arguments.as_ptr() as u64, frame);
        let mut calls: Vec<(bool, usize, [u64; 11])> = vec![];
        let (mut in_function, mut pc) = (false, 0usize);
        loop {
            let insn = if in_function { functions[pc] } else { code[pc] };
            pc += 1;
            self.executed += 1;
            let source = if insn.op & 8 != 0 { r[insn.src] } else { insn.imm as i64 as u64 };
            match insn.op & 7 {
                0 => {
                    assert_eq!(insn.op, 0x18, "{insn:?}");
                    let high = if in_function { functions[pc] } else { code[pc] };
                    pc += 1;
                    r[insn.dst] = match insn.target {
                        Target::None => insn.imm as u32 as u64 | (high.imm as u64) << 32,
                        // No address; only the look-up gets it.
                        Target::Map(map) => map as u64 + 1,
                        Target::Data(address) => address,
                        Target::Function(_) => panic!("{insn:?}"),
                    };
                }
                1 => {
                    let at = r[insn.src].wrapping_add(insn.off as i64 as u64);
                    r[insn.dst] = load(self.checked(at, size(insn.op), &regions), insn.op);
                }
                class @ (2 | 3) => {
                    assert_eq!(insn.op & 0xe0, 0x60, "only plain stores: {insn:?}");
                    let at = r[insn.dst].wrapping_add(insn.off as i64 as u64);
                    let value = if class == 2 { insn.imm as i64 as u64 } else { r[insn.src] };
                    store(self.checked(at, size(insn.op), &regions), insn.op, value);
                }
                class @ (4 | 7) => r[insn.dst] = alu(insn, r[insn.dst], source, class == 7),
                class => match insn.op >> 4 {
                    8 => match insn.target {
                        Target::Function(at) => {
                            calls.push((in_function, pc, r));
                            frame += STACK as u64;
                            r[10] = frame;
                            (in_function, pc) = (true, at);
                        }
                        // A function of the same section.
                        Target::None if insn.src == 1 => {
                            calls.push((in_function, pc, r));
                            frame += STACK as u64;
                            r[10] = frame;
                            pc = (pc as i64 + i64::from(insn.imm)) as usize;
                        }
                        Target::None => r[0] = self.help(insn.imm, &r, &regions),
                        _ => panic!("{insn:?}"),
                    },
                    9 => match calls.pop() {
                        None => return r[0],
                        Some((was_in_function, back, saved)) => {
                            (in_function, pc) = (was_in_function, back);
                            r[6..].copy_from_slice(&saved[6..]);
                            frame -= STACK as u64;
                        }
                    },
                    0 => {
                        pc = (pc as i64 + i64::from(if class == 6 { insn.imm } else { insn.off.into() }))
                            as usize
                    }
                    _ if jumps(insn, r[insn.dst], source, class == 5) => {
                        pc = (pc as i64 + i64::from(insn.off)) as usize;
                    }
                    _ => {}
                },
            }
        }
    }

    fn help(&mut self, helper: i32, r: &[u64; 11], regions: &[(u64, u64)]) -> u64 {
        match helper {
            // bpf_map_lookup_elem
            1 => {
                self.executed += LOOKUP - 1;
                let key = load(self.checked(r[2], 4, regions), 0x61) as usize;
                let map = &self.maps[r[1] as usize - 1];
                let stride = map.value_size.next_multiple_of(8);
                if key < map.entries { map.memory.start() + (key * stride) as u64 } else { 0 }
            }
            // bpf_get_smp_processor_id
            8 => {
                self.executed += CPU_NUMBER - 1;
                self.cpu.into()
            }
            other => panic!("helper {other}"),
        }
    }
}

fn read_maps(file: &ElfFile64) -> Vec<Map> {
    let section = file.section_by_name("maps").expect("maps");
    let data = section.data().expect("maps");
    let maps =
        file.symbols().filter(|symbol| symbol.section_index() == Some(section.index()) && symbol.size() > 0);
    let maps = maps.map(|symbol| {
        let at = symbol.address() as usize;
        let word = |i: usize| {
            let bytes = &data[at + 4 * i..at + 4 * i + 4];
            u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize
        };
        let name = symbol.name().expect("a name").to_owned();
        Map { name, value_size: word(2), entries: word(3), memory: Memory::new(0) }
    });
    maps.collect()
}

fn size(op: u8) -> u64 {
    match op >> 3 & 3 {
        0 => 4,
        1 => 2,
        2 => 1,
        _ => 8,
    }
}

fn load(address: u64, op: u8) -> u64 {
    // SAFETY: the caller checked the address.
    unsafe {
        match size(op) {
            4 => (address as *const u32).read_unaligned().into(),
            2 => (address as *const u16).read_unaligned().into(),
            1 => (address as *const u8).read().into(),
            _ => (address as *const u64).read_unaligned(),
        }
    }
}

fn store(address: u64, op: u8, value: u64) {
    // SAFETY: the caller checked the address.
    unsafe {
        match size(op) {
            4 => (address as *mut u32).write_unaligned(value as u32),
            2 => (address as *mut u16).write_unaligned(value as u16),
            1 => (address as *mut u8).write(value as u8),
            _ => (address as *mut u64).write_unaligned(value),
        }
    }
}

fn alu(insn: Insn, dst: u64, src: u64, wide: bool) -> u64 {
    let (a, b) = if wide { (dst, src) } else { (dst as u32 as u64, src as u32 as u64) };
    let shift = b as u32 & if wide { 63 } else { 31 };
    let result = match insn.op >> 4 {
        0 => a.wrapping_add(b),
        1 => a.wrapping_sub(b),
        2 => a.wrapping_mul(b),
        4 => a | b,
        5 => a & b,
        6 => a << shift,
        7 => a >> shift,
        8 => a.wrapping_neg(),
        10 => a ^ b,
        11 => b,
        12 if wide => ((a as i64) >> shift) as u64,
        12 => ((a as i32) >> shift) as u32 as u64,
        _ => panic!("{insn:?}"),
    };
    if wide { result } else { result as u32 as u64 }
}

fn jumps(insn: Insn, dst: u64, src: u64, wide: bool) -> bool {
    let (a, b) = if wide { (dst, src) } else { (dst as u32 as u64, src as u32 as u64) };
    let signed = |n: u64| if wide { n as i64 } else { i64::from(n as i32) };
    match insn.op >> 4 {
        1 => a == b,
        2 => a > b,
        3 => a >= b,
        4 => a & b != 0,
        5 => a != b,
        6 => signed(a) > signed(b),
        7 => signed(a) >= signed(b),
        10 => a < b,
        11 => a <= b,
        12 => signed(a) < signed(b),
        13 => signed(a) <= signed(b),
        _ => panic!("{insn:?}"),
    }
}

impl World for BytecodeWorld {
    fn enable(&mut self, enabled: bool) {
        for key in 0..self.cpus as usize * NR_LEVELS {
            let lane: *mut GuestLane = self.element("GUEST_LANES", key);
            // SAFETY: inside the map's memory.
            unsafe { (*lane).enabled = enabled.into() };
        }
    }

    fn set_csd(&mut self, csd: u64) {
        for key in 0..self.cpus as usize * NR_LEVELS {
            let lane: *mut GuestLane = self.element("GUEST_LANES", key);
            // SAFETY: inside the map's memory.
            unsafe { (*lane).classifier.csd = csd };
        }
    }

    fn feed(&mut self, event: &Event, vcpu: u32) {
        let (_, program) = PROGRAMS.iter().find(|(kind, _)| *kind == event.kind).expect("four kinds");
        self.cpu = vcpu;
        self.run(program, &event.to_args());
    }

    fn lanes(&self) -> Vec<Lane> {
        let mut lanes = vec![];
        for level in 0..NR_LEVELS as u32 {
            for vcpu in 0..self.cpus {
                let lane: *const GuestLane = self.element("GUEST_LANES", lane_key(vcpu, level) as usize);
                // SAFETY: inside the map's memory; integers all the way down.
                let lane = Lane { vcpu, level, counts: Box::new(unsafe { lane.read() }) };
                let c = lane.counters();
                if c.takes + c.acquires + c.releases + c.deferrals > 0 {
                    lanes.push(lane);
                }
            }
        }
        lanes
    }

    fn take_incidents(&mut self) -> Vec<Incident> {
        let mut incidents = vec![];
        for key in 0..self.cpus as usize * NR_LEVELS {
            // SAFETY: a ring inside the map's memory, used by this thread alone.
            while let Some(incident) = unsafe { GuestRing::pop(self.element("GUEST_RINGS", key)) } {
                incidents.push(incident);
            }
        }
        incidents.sort_by_key(|incident| incident.to_tsc);
        incidents
    }
}
