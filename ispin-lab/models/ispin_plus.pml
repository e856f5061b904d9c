/*
 * ispin+ as a model for spin(1): tickets, deferral, the rule that refuses while a member of the queue is off its pCPU, and
 * a hypervisor with N vCPUs on P pCPUs that preempts early whenever it likes.
 *
 *   spin -a ispin_plus.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m1000000
 *
 * What must hold, whatever the hypervisor does:
 *   - one holder at a time;
 *   - tickets are served in their order, and the queue never loses one (no deadlock);
 *   - nobody is admitted while a member is off its pCPU, unless max_defer is over;
 *   - a refused vCPU takes a ticket after at most MAX_DEFER + 1 of its own quanta; MAX_STALLED + 1, if members are off.
 *
 * A vCPU that is refused although two quanta were fresh and the queue is empty gives in sooner than max_defer in the lock itself;
 * here MAX_DEFER counts quanta and stands for both.
 *
 * -DTORN_TAKE, -DNO_MAX_DEFER and -DFORGETS_QUEUE break it, each in one way; spin finds a counterexample of each.
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
byte quanta[N];		/* since the vCPU was refused first, this one included; 0 = not refused */
byte holders = 0;
byte turn[P];		/* of each pCPU: its current vCPU, NOBODY = none */

/* Tickets are numbers modulo 8, which N vCPUs cannot exhaust. */
#define AFTER(ticket) ((ticket + 1) % 8)
#define LQL ((next + 8 - serving) % 8)
#define MEMBER_OFF ((LQL > 0 && !on[who[serving % 4]]) || (LQL > 1 && !on[who[(serving + 1) % 4]]) || \
		    (LQL > 2 && !on[who[(serving + 2) % 4]]))

/* A step of vCPU v: only on its pCPU, and while the quantum lasts. */
#define STEP(v) (on[v] && left[v] > 0) -> left[v]--

/* Round robin over the vCPUs of a pCPU: v, v + P, v + 2P, ... */
proctype hypervisor(byte p)
{
	byte v;

	do
	:: atomic {
		/* The quantum is over; or something comes in early. */
		(turn[p] == NOBODY || left[turn[p]] == 0 || on[turn[p]]) ->
		if
		:: turn[p] == NOBODY -> v = p
		:: else ->
			on[turn[p]] = false;
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
		/* No preemption before the first step: a quantum has at least one. */
	   }
	   (left[turn[p]] < QUANTUM)
	od
}

proctype vcpu(byte me)
{
	byte ticket;
	bool stalled, timely, forced;

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
#ifdef NO_MAX_DEFER
		forced = false;
#else
		forced = quanta[me] > (stalled -> MAX_STALLED : MAX_DEFER);
#endif
		assert(quanta[me] <= MAX_STALLED + 1);
		if
		:: (timely && !stalled) || forced ->
			assert(!MEMBER_OFF || forced);
			quanta[me] = 0;
			break
		:: else ->
			/* Refused: yields the rest of the quantum. */
			if
			:: quanta[me] == 0 -> quanta[me] = 1
			:: else
			fi;
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
	atomic { STEP(me) };
	atomic {
		STEP(me);
		holders--;
		assert(serving == ticket);
		serving = AFTER(ticket)
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
