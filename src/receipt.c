/*
 * receipt.c
 *		The answer to a command or an append.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "receipt.h"

/* The result of a function that returns a cqrs.receipt. */
Datum
cqrs_receipt_datum(const Receipt *receipt)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(cqrs_catalog_type("receipt"), -1);
	Datum		values[4] = {
		PointerGetDatum(receipt->entity_id),
		Int64GetDatum(receipt->version),
		Int64GetDatum(receipt->position),
		PointerGetDatum(receipt->reply)
	};
	bool		nulls[4] = {false, false, false, receipt->reply == NULL};
	Datum		result;

	result = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	ReleaseTupleDesc(desc);
	return result;
}
