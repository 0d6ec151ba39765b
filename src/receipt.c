/*
 * receipt.c
 *		The answer to a command or an append.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"

#include "receipt.h"

/* The result of a function that returns a cqrs.receipt. */
Datum
cqrs_receipt_datum(FunctionCallInfo fcinfo, const Receipt *receipt)
{
	TupleDesc	desc;
	Datum		values[4] = {
		PointerGetDatum(receipt->entity_id),
		Int64GetDatum(receipt->version),
		Int64GetDatum(receipt->position),
		PointerGetDatum(receipt->reply)
	};
	bool		nulls[4] = {false, false, false, receipt->reply == NULL};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
