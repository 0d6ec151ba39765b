/*
 * catalog.h
 *		Where our own objects are: by name, since OIDs differ after a restore.
 */
#ifndef CQRS_CATALOG_H
#define CQRS_CATALOG_H

extern void cqrs_catalog_init(void);
extern Oid	cqrs_catalog_relation(const char *name);
extern Oid	cqrs_catalog_type(const char *name);
extern Oid	cqrs_catalog_extension_owner(void);
extern Oid	cqrs_catalog_relation_owner(Oid relid);

#endif
