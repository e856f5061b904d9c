/*
 * ispin+ as a model for spin(1): tickets, deferral, the rule that refuses while a member of the queue is off its pCPU, and
 * a hypervisor with N vCPUs on P pCPUs that preempts early whenever it likes.
 *
 *   spin -a ispin_plus.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m1000000
 *
 * What must hold, whatever the hypervisor does:
 *   - one holder at a time;
 *   - tickets are served in their order, and the queue never loses one (no deadlock);
 *   - nobody is admitted while a member is off its pCPU, unless its wait is over;
 *   - of those whose wait is not over, each takes one ticket at most from when a member goes off until none is off: it had looked before;
 *   - a refused vCPU is admitted in its own quantum number MAX_DEFER + 1 at the latest, that of the refusal included; MAX_STALLED + 1,
 *     if it found a member off since. It takes its ticket in that quantum or, taken off in between, in the next.
 *
 * With -DLIVE=v the verifier looks for a run in which vCPU v holds the lock a finite number of times only. On one pCPU every vCPU that
 * can run does run, sooner or later; of two pCPUs one can be for ever ahead, so weak fairness has to be asked for:
 *
 *   spin -DLIVE=0 -a ispin_plus.pml && cc -O2 -w -o pan pan.c && ./pan -a -m8000000	(-f with -DP=2)
 *
 * A vCPU that is refused although two quanta were fresh and the queue is empty gives in sooner than max_defer in the lock itself;
 * here MAX_DEFER counts quanta and stands for both.
 *
 * -DTORN_TAKE, -DNO_MAX_DEFER, -DFORGETS_QUEUE and -DASKS_ONCE break it, each in one way; spin finds a counterexample of each.
 */

#ifndef N
#define N 3		/* vCPUs */
#endif
#ifndef P
#define P 1		/* pCPUs */
#endif
#ifndef MAX_DEFER
#define MAX_DEFER 2	/* quanta that a vCPU is refused at most */
#endif
#ifndef MAX_STALLED
#define MAX_STALLED 3	/* the same while a member is off */
#endif
#define QUANTUM 4	/* steps that a vCPU makes in a quantum, if it is not taken off before */
#define CSD 1		/* estimate of a passage, in steps */
#define NOBODY 255

byte next = 0, serving = 0;
byte who[4];		/* by ticket modulo 4: more than N */
bool on[N];
byte left[N];		/* steps of the quantum that are left */
byte quanta[N];		/* since the vCPU was refused first, this one included, until it has its ticket; 0 = not refused */
bool joined[N];		/* took a ticket, its wait not over, since a member that is off went off */
byte holders = 0;
byte turn[P];		/* of each pCPU: its current vCPU, NOBODY = none */

/* Tickets are numbers modulo 8, which N vCPUs cannot exhaust. */
#define AFTER(ticket) ((ticket + 1) % 8)
#define LQL ((next + 8 - serving) % 8)
#define MEMBER_OFF ((LQL > 0 && !on[who[serving % 4]]) || (LQL > 1 && !on[who[(serving + 1) % 4]]) || \
		    (LQL > 2 && !on[who[(serving + 2) % 4]]))

/* Nobody is off any more: what was done while somebody was is forgotten. */
#define FORGET_JOINED \
	if \
	:: !MEMBER_OFF -> \
		for (i : 0 .. N - 1) { \
			joined[i] = false \
		} \
		i = 0 \
	:: else \
	fi

/* A step of vCPU v: only on its pCPU, and while the quantum lasts. */
#define STEP(v) (on[v] && left[v] > 0) -> left[v]--

/* Round robin over the vCPUs of a pCPU: v, v + P, v + 2P, ... */
proctype hypervisor(byte p)
{
	byte v, i;

	do
	:: atomic {
		/* The next one comes; before it, something else can have had the pCPU for as long as it liked. */
		if
		:: turn[p] == NOBODY -> v = p
		:: else ->
			v = turn[p] + P;
			if
			:: v >= N -> v = p
			:: else
			fi
		fi;
		turn[p] = v;
		on[v] = true;
		left[v] = QUANTUM;
		if
		:: quanta[v] > 0 -> quanta[v]++
		:: else
		fi;
		FORGET_JOINED;
		v = 0
	   };
	   /* Its quantum is over; or something comes in early, but not before the first step: a quantum has at least one. */
	   atomic {
		left[turn[p]] < QUANTUM ->
		on[turn[p]] = false
	   }
	od
}

proctype vcpu(byte me)
{
	byte ticket, i;
	bool stalled, timely, forced;
	bool over;		/* it has waited for as long as it may have to */
	bool was_off;		/* refused because a member was off, since it was refused first */

end:	do
	:: atomic {
		/* Asks: one look at times and members. */
		STEP(me);
#ifdef FORGETS_QUEUE
		stalled = false;
#else
		stalled = MEMBER_OFF;
#endif
		timely = left[me] > (LQL + 1) * CSD;
		over = quanta[me] > (MEMBER_OFF -> MAX_STALLED : MAX_DEFER);
#ifdef NO_MAX_DEFER
		forced = false;
#elif defined(ASKS_ONCE)
		forced = quanta[me] > 0;
#else
		forced = over;
#endif
		was_off = was_off || MEMBER_OFF;
		assert(quanta[me] <= (was_off -> MAX_STALLED : MAX_DEFER) + 1);
		if
		:: (timely && !stalled) || forced ->
			assert(!MEMBER_OFF || over);
			stalled = false;
			timely = false;
			forced = false;
			break
		:: else ->
			/* Refused: yields the rest of the quantum. */
			if
			:: quanta[me] == 0 -> quanta[me] = 1
			:: else
			fi;
			stalled = false;
			timely = false;
			forced = false;
			over = false;
			left[me] = 0
		fi
	   }
	od;

	/* Takes a ticket: one instruction, some time after the look. */
	atomic {
		STEP(me);
		ticket = next;
#ifdef TORN_TAKE
	};
	atomic {
		STEP(me);
#endif
		if
		:: MEMBER_OFF && !over ->
			assert(!joined[me]);
			joined[me] = true
		:: else
		fi;
		assert(quanta[me] <= (was_off -> MAX_STALLED : MAX_DEFER) + 2);
		quanta[me] = 0;
		was_off = false;
		over = false;
		next = AFTER(ticket);
		who[ticket % 4] = me
	};

	do
	:: atomic {
		STEP(me);
		if
		:: serving == ticket -> break
		:: else
		fi
	   }
	od;

	atomic {
		holders++;
		assert(holders == 1)
	};
holds:	atomic { STEP(me) };
	atomic {
		STEP(me);
		holders--;
		assert(serving == ticket);
		serving = AFTER(ticket);
		ticket = 0;
		FORGET_JOINED
	};
	goto end
}

init
{
	byte i;

	atomic {
		for (i : 0 .. P - 1) {
			turn[i] = NOBODY
		}
		for (i : 0 .. N - 1) {
			run vcpu(i)
		}
		for (i : 0 .. P - 1) {
			run hypervisor(i)
		}
	}
}

#ifdef LIVE
ltl holds_again_and_again { [] <> (vcpu[LIVE + 1]@holds) }
#endif
