/*
 * effect.h
 *		What a command handler decides.
 */
#ifndef CQRS_EFFECT_H
#define CQRS_EFFECT_H

#include "new_event.h"

typedef enum EffectKind
{
	EFFECT_PERSIST,				/* events, possibly none, and a reply */
	EFFECT_REJECT
} EffectKind;

typedef struct Effect
{
	EffectKind	kind;
	/* Persist */
	NewEvent   *events;
	int			count;
	Jsonb	   *reply;			/* or NULL */
	/* Reject */
	text	   *reason;
	text	   *code;			/* or NULL */
	Jsonb	   *detail;			/* or NULL */
} Effect;

extern void cqrs_effect_parse(Datum value, Effect *effect);
extern void cqrs_effect_raise_rejection(const Effect *effect);

#endif
