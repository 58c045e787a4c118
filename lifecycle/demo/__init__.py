"""The whole life of a model, told by a client of a running service.

It imports nothing else of this project: what it does, any client can do.

    story        the plot, from the first run to the rollback
    experiment   trains and logs runs, registers versions
    promotion    policies, checklists, approvals, stages: what lets a version in, and what does not
    production   deploys what was let in, reports drift
    watch        follows the deployments live, meanwhile
    training     the data set and the models; knows no API
    drift        PSI and Kolmogorov-Smirnov; pure functions
    client       GraphQL over HTTP and over a websocket
    operations   the GraphQL documents
    screen       what the person at the terminal sees
"""
