/*
 * receipt.h
 *		The answer to a command or an append.
 */
#ifndef CQRS_RECEIPT_H
#define CQRS_RECEIPT_H

#include "utils/jsonb.h"

typedef struct Receipt
{
	text	   *entity_id;
	int64		version;		/* of the entity's last event; 0: none */
	int64		position;		/* of the same; 0: none */
	Jsonb	   *reply;			/* or NULL */
} Receipt;

extern Datum cqrs_receipt_datum(const Receipt *receipt);

#endif
