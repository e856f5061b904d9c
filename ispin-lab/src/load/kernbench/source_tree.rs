//! A C program made up from a seed, and what it computes.
//!
//! Like a kernel's sources it has many small files that include the same headers. It needs no C library: its entry
//! makes its two system calls itself.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Headers with a function each.
const HEADERS: u32 = 24;

/// How many of them a file includes.
const INCLUDED: usize = 6;

/// Declarations in the header that all files include.
const DECLARATIONS: u32 = 300;

/// What the computation begins with.
const START: u32 = 7;

/// Prints the result and ends.
const ENTRY: &str = "
static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile(\"syscall\" : \"=a\"(result) : \"a\"(number), \"D\"(a), \"S\"(b), \"d\"(c)
			 : \"rcx\", \"r11\", \"memory\");
	return result;
}

static void print(unsigned value)
{
	char text[16];
	int i = 15;

	text[i] = '\\n';
	do {
		text[--i] = '0' + value % 10;
		value /= 10;
	} while (value);
	call(1, 1, (long)(text + i), 16 - i);
}
";

/// `x = x * a + b; x ^ (x >> shift)`, the function of a header.
struct Header {
    a: u32,
    b: u32,
    shift: u32,
}

/// A loop around a header's function.
struct Function {
    header: u32,
    turns: u32,
    add: u32,
    xor: u32,
    rotate: u32,
    subtract: u32,
}

/// The program.
pub struct SourceTree {
    headers: Vec<Header>,
    units: Vec<Vec<Function>>,
}

impl SourceTree {
    /// The program of `seed`, with `files` files of `functions` functions each.
    pub fn generate(seed: u64, files: u32, functions: u32) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let headers = (0..HEADERS)
            .map(|_| Header { a: random.random(), b: random.random(), shift: random.random_range(1..32) })
            .collect();
        let units = (0..files).map(|_| unit(&mut random, functions)).collect();
        Self { headers, units }
    }

    /// Names of the files to compile, without `.c`.
    pub fn files(&self) -> Vec<String> {
        (0..self.units.len()).map(|i| format!("unit_{i}")).chain(["main".to_owned()]).collect()
    }

    /// What the program prints.
    pub fn result(&self) -> u32 {
        self.units.iter().flatten().fold(START, |x, function| function.apply(&self.headers, x))
    }

    /// Writes all files into `folder`, which is created.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let include = folder.join("include");
        fs::create_dir_all(&include).with_context(|| format!("creating {}", include.display()))?;
        let put = |name: String, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        put("include/common.h".into(), common())?;
        for (i, header) in self.headers.iter().enumerate() {
            put(format!("include/part_{i}.h"), header.text(i))?;
        }
        for (i, unit) in self.units.iter().enumerate() {
            put(format!("unit_{i}.c"), unit_text(i, unit))?;
        }
        put("main.c".into(), self.main())
    }

    fn main(&self) -> String {
        let mut text = format!("#include \"common.h\"\n{ENTRY}\n");
        for i in 0..self.units.len() {
            line(&mut text, format_args!("unsigned unit_{i}(unsigned x);"));
        }
        line(&mut text, format_args!("\nvoid _start(void)\n{{\n\tunsigned x = {START};\n"));
        for i in 0..self.units.len() {
            line(&mut text, format_args!("\tx = unit_{i}(x);"));
        }
        text + "\tprint(x);\n\tcall(60, 0, 0, 0);\n}\n"
    }
}

fn unit(random: &mut SmallRng, functions: u32) -> Vec<Function> {
    let included: Vec<u32> = (0..INCLUDED).map(|_| random.random_range(0..HEADERS)).collect();
    (0..functions)
        .map(|_| Function {
            header: included[random.random_range(0..INCLUDED)],
            turns: random.random_range(1..20),
            add: random.random(),
            xor: random.random(),
            rotate: random.random_range(1..32),
            subtract: random.random(),
        })
        .collect()
}

fn unit_text(number: usize, functions: &[Function]) -> String {
    let mut text = String::from("#include \"common.h\"\n");
    let mut included: Vec<u32> = functions.iter().map(|f| f.header).collect();
    included.sort_unstable();
    included.dedup();
    for header in included {
        line(&mut text, format_args!("#include \"part_{header}.h\""));
    }
    for (i, function) in functions.iter().enumerate() {
        text.push_str(&function.text(i));
    }
    line(&mut text, format_args!("\nunsigned unit_{number}(unsigned x)\n{{"));
    for i in 0..functions.len() {
        line(&mut text, format_args!("\tx = step_{i}(x);"));
    }
    text + "\treturn x;\n}\n"
}

/// Declarations that every file has to read and most do not use.
fn common() -> String {
    let mut text = String::from("#ifndef COMMON_H\n#define COMMON_H\n");
    for i in 0..DECLARATIONS {
        line(
            &mut text,
            format_args!("struct record_{i} {{ unsigned key; unsigned value[{}]; }};", i % 7 + 1),
        );
        line(
            &mut text,
            format_args!("unsigned look_up_{i}(const struct record_{i} *record, unsigned long count);"),
        );
    }
    text + "#endif\n"
}

impl Header {
    fn text(&self, number: usize) -> String {
        let Self { a, b, shift } = self;
        format!(
            "#ifndef PART_{number}_H
#define PART_{number}_H
#define PART_{number}_A {a}u
#define PART_{number}_B {b}u
#define PART_{number}_SHIFT {shift}
static unsigned part_{number}(unsigned x)
{{
	x = x * PART_{number}_A + PART_{number}_B;
	return x ^ (x >> PART_{number}_SHIFT);
}}
#endif
"
        )
    }

    fn apply(&self, x: u32) -> u32 {
        let x = x.wrapping_mul(self.a).wrapping_add(self.b);
        x ^ (x >> self.shift)
    }
}

impl Function {
    fn text(&self, number: usize) -> String {
        let Self { header, turns, add, xor, rotate, subtract } = self;
        let back = 32 - rotate;
        format!(
            "
static unsigned step_{number}(unsigned x)
{{
	unsigned i;

	for (i = 0; i < {turns}; i++) {{
		x = part_{header}(x);
		switch (x & 3) {{
		case 0:
			x += {add}u;
			break;
		case 1:
			x ^= {xor}u;
			break;
		case 2:
			x = (x << {rotate}) | (x >> {back});
			break;
		default:
			x -= {subtract}u;
		}}
	}}
	return x;
}}
"
        )
    }

    fn apply(&self, headers: &[Header], mut x: u32) -> u32 {
        for _ in 0..self.turns {
            x = headers[self.header as usize].apply(x);
            x = match x & 3 {
                0 => x.wrapping_add(self.add),
                1 => x ^ self.xor,
                2 => x.rotate_left(self.rotate),
                _ => x.wrapping_sub(self.subtract),
            };
        }
        x
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_program() {
        let (one, same, other) =
            (SourceTree::generate(1, 3, 4), SourceTree::generate(1, 3, 4), SourceTree::generate(2, 3, 4));
        assert_eq!(one.result(), same.result());
        assert_eq!(unit_text(0, &one.units[0]), unit_text(0, &same.units[0]));
        assert_ne!(one.result(), other.result());
        assert_eq!(one.files(), ["unit_0", "unit_1", "unit_2", "main"]);
    }
}
