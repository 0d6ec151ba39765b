/*
 * standby.c
 *		Waiting for synchronous standbys, by who reads.
 *
 * A commit waits for them when it has happened, so a cancel ends its wait with
 * a warning.  Who reads what others have committed gets an error instead: he
 * has got nothing yet, and a failover would take it back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/lwlock.h"

#include "standby.h"

static bool is_waited_for(void);

/* As a commit does that has written up to there, unless synchronous_commit says otherwise. */
void
cqrs_standby_wait(XLogRecPtr wal_end)
{
	int			mode = synchronous_commit == SYNCHRONOUS_COMMIT_REMOTE_WRITE ? SYNC_REP_WAIT_WRITE : SYNC_REP_WAIT_FLUSH;
	bool		safe;

	CHECK_FOR_INTERRUPTS();
	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(wal_end, false);
	RESUME_INTERRUPTS();
	/* A cancel has been taken back, but leaves this. */
	if (!InterruptPending || !is_waited_for())
		return;
	LWLockAcquire(SyncRepLock, LW_SHARED);
	safe = WalSndCtl->lsn[mode] >= wal_end;
	LWLockRelease(SyncRepLock);
	CHECK_FOR_INTERRUPTS();
	if (!safe)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling the wait for a synchronous standby"),
				 errdetail("A failover would take back what was about to be read."),
				 errhint("See pg_stat_replication; or read with synchronous_commit = local, which does not wait.")));
}

static bool
is_waited_for(void)
{
	return SyncRepRequested() && SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0';
}
